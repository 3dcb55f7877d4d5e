"""Sampling: from noise to images.

    denoiser (its output: ``estimates``) -> guidance (combines two denoisers; or a classifier) -> thresholding (limits
    the estimate) -> edits (known pixels, starting level) -> step rule (ancestral, DDIM; ``solvers``: DPM-Solver++,
    Heun, UniPC) along a trajectory of log-SNRs (``spacings``) -> sampler (one scan) -> cascade (a stage's program)
    -> images (files, grids)

``codes`` draws from an autoregressive prior instead. All modules work with plain functions, such as a ``Denoiser``, and
do not depend on networks or configs.
"""
