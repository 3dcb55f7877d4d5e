"""From noise to pictures: everything that walks the diffusion backwards.

    denoiser (what it says: ``estimates``) -> guidance (two denoisers make one) -> thresholding (its estimate bounded)
    -> step rule (ancestral, DDIM) -> sampler (one scan) -> cascade (stage after stage) -> pictures (PNG)

Every piece takes a ``Denoiser``, a plain function, and knows nothing of networks or configs.
May import: ``array_types``, ``errors``, ``diffusion``.
"""
