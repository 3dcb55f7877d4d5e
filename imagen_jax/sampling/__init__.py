"""From noise to pictures: everything that walks the diffusion backwards.

    denoiser (what it says: ``estimates``) -> guidance (two denoisers make one; a classifier) -> thresholding (its
    estimate bounded) -> edits (what is known, where to begin) -> step rule (ancestral, DDIM; ``solvers``: DPM-Solver++,
    Heun, UniPC) along a row of log-SNRs (``spacings``) -> sampler (one scan) -> cascade (a stage's program)
    -> pictures (files, grids)

Every piece takes a ``Denoiser``, a plain function, and knows nothing of networks or configs.
"""
