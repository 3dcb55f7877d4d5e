"""The diffusion process as pure functions of arrays: no networks, no state, no configuration.

``schedules`` (time -> log-SNR), ``process`` (adds noise; converts between ε, x₀ and v), ``loss`` (the training
objective), ``variational_bound`` and ``variance_loss`` (the bound, and how a variance is learned from it),
``augmentation`` (noise conditioning augmentation of the low-resolution image, and its blur), ``conditions`` (what a
network is told beside the noisy sample, its dropout, and its nulls).
"""
