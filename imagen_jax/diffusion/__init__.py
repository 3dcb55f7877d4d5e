"""The diffusion process as pure functions of arrays: no networks, no state, no configuration.

``schedules`` (time -> log-SNR), ``process`` (add noise; ε, x₀ and v and every way between them), ``loss`` (one training
objective), ``augmentation`` (noise conditioning augmentation of the low-resolution image), ``null_text`` (caption
dropout, and the text that stands for "no caption").
"""
