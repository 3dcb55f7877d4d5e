"""The diffusion process as pure functions of arrays: no networks, no state, no configuration.

``schedules`` (time -> log-SNR), ``process`` (adds noise; converts between ε, x₀ and v), ``loss`` (the training
objective), ``augmentation`` (noise conditioning augmentation of the low-resolution image), ``conditions``
(what a network is told beside the noisy sample, its dropout, and its nulls).
"""
