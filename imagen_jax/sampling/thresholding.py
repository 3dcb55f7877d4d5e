r"""Thresholding (Imagen, section 2.3): keeping the estimate of the clean image in the range that images have.

High guidance weights push x̂ beyond [-1, 1], where no training image was, and the error feeds itself step by step.
Static thresholding clips x̂ to [-1, 1]. Dynamic thresholding takes, for each image on its own, s = the p-th percentile
of |x̂| over all its pixels and channels, and

    s ← max(s, 1),     x̂ ← clip(x̂, -s, s) / s                                                   (1)

Both apply to the *guided* estimate, at every step.
"""

from collections.abc import Callable

import jax.numpy as jnp

from imagen_jax.array_types import Denoiser, Images, PerExample
from imagen_jax.errors import UserError

Threshold = Callable[[Images], Images]


def no_threshold(image: Images) -> Images:
    """Leaves the estimate as it is."""
    return image


def static_threshold(image: Images) -> Images:
    """Clips to [-1, 1]."""
    return jnp.clip(image, -1.0, 1.0)


def dynamic_threshold(percentile: float = 99.5) -> Threshold:
    """Makes the dynamic threshold of equation (1).

    Args:
        percentile: p, from 0 to 100; the paper's figure uses 99.5.

    Raises:
        UserError: a percentile that looks like a fraction, or lies outside [0, 100].
    """
    if not 1.0 < percentile <= 100.0:
        raise UserError(
            f"dynamic thresholding takes a percentile above 1 and up to 100, such as 99.5, not {percentile}"
        )

    def threshold(image: Images) -> Images:
        bound = jnp.percentile(jnp.abs(image), percentile, axis=(1, 2, 3), keepdims=True)
        bound = jnp.maximum(bound, 1.0)
        return jnp.clip(image, -bound, bound) / bound

    return threshold


THRESHOLDS: dict[str, Callable[[float], Threshold]] = {
    "none": lambda percentile: no_threshold,
    "static": lambda percentile: static_threshold,
    "dynamic": dynamic_threshold,
}
"""``THRESHOLDS[name](percentile)``; only "dynamic" reads the percentile."""


def bound(denoise: Denoiser, threshold: Threshold) -> Denoiser:
    """Makes a denoiser whose estimate is thresholded."""

    def bounded(noisy: Images, log_snr: PerExample) -> Images:
        return threshold(denoise(noisy, log_snr))

    return bounded
