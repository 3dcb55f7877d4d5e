r"""Classifier-free guidance (Ho & Salimans 2022), in Imagen's convention (section 2.2).

    ε̃ = w ε(z, c) + (1 - w) ε(z)                                                               (1)

so w = 1 is no guidance, and w > 1 strengthens the text. Others write ε(z, c) + s (ε(z, c) - ε(z)); their s is w - 1.
"""

from imagen_jax.array_types import Denoiser, Estimate, Images, PerExample
from imagen_jax.sampling.estimates import join_estimate, split_estimate


def guide(conditional: Denoiser, unconditional: Denoiser, weight: float) -> Denoiser:
    """Makes the guided denoiser of equation (1), stated for the clean image, which is the same (see ``process.py``).

    Where the network learns its variance, that of the conditional estimate is kept.

    Args:
        conditional: denoiser that knows the text.
        unconditional: the same with the null text.
        weight: w, 1 for no guidance; then the unconditional denoiser is never run.
    """
    if weight == 1.0:
        return conditional

    def denoise(noisy: Images, log_snr: PerExample) -> Estimate:
        image, gamma = split_estimate(conditional(noisy, log_snr))
        without_text, _ = split_estimate(unconditional(noisy, log_snr))
        return join_estimate(weight * image + (1.0 - weight) * without_text, gamma)

    return denoise
