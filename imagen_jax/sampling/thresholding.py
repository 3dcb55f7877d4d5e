r"""Thresholding (Imagen, section 2.3): keeps the estimate of the clean sample in the range of images.

High guidance weights push x̂ beyond [-1, 1], the range of all training images, and the error grows from step to step.
Static thresholding clips x̂ to [-1, 1]. Dynamic thresholding computes, for each image separately, s = the p-th
percentile of |x̂| over all its pixels and channels, and

    s ← max(s, 1),     x̂ ← clip(x̂, -s, s) / s                                                   (1)

DeepFloyd IF also limits s to a max; with a max of 1 that is static thresholding. Both apply to the *guided* estimate,
at every step. Samples that are no images have another range: ``Clip`` clips x̂ to any (Karlo's prior to [-5, 5]).
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax.numpy as jnp

from imagen_jax.array_types import Denoiser, Estimate, PerExample, Samples
from imagen_jax.errors import UserError
from imagen_jax.sampling.estimates import join_estimate, split_estimate

Threshold = Callable[[Samples], Samples]


def no_threshold(clean: Samples) -> Samples:
    """Returns the estimate unchanged."""
    return clean


def static_threshold(clean: Samples) -> Samples:
    """Clips the estimate to [-1, 1]."""
    return jnp.clip(clean, -1.0, 1.0)


def dynamic_threshold(percentile: float = 99.5, max_threshold: float | None = None) -> Threshold:
    """Makes the dynamic threshold of equation (1).

    Args:
        percentile: p, in (1, 100]; the paper's figure uses 99.5.
        max_threshold: max of s, at least 1; None for no limit.

    Raises:
        UserError: ``percentile`` is outside (1, 100], such as a fraction, or ``max_threshold`` is below 1.
    """
    if max_threshold is not None and max_threshold < 1.0:
        raise UserError(f"max_threshold {max_threshold} of dynamic thresholding is below 1: set it to 1 or more")
    check_percentile(percentile)

    def threshold(clean: Samples) -> Samples:
        limit = jnp.percentile(jnp.abs(clean), percentile, axis=tuple(range(1, clean.ndim)), keepdims=True)
        limit = jnp.clip(limit, 1.0, max_threshold)
        return jnp.clip(clean, -limit, limit) / limit

    return threshold


def check_percentile(percentile: float) -> None:
    """Checks the percentile of dynamic thresholding.

    Raises:
        UserError: ``percentile`` is outside (1, 100]. A fraction, which diffusers takes, is below: 0.995 for 99.5.
    """
    if not 1.0 < percentile <= 100.0:
        raise UserError(
            f"dynamic thresholding takes a percentile above 1 and up to 100, such as 99.5, not {percentile}"
        )


@dataclass(frozen=True)
class Clip:
    """Clips the estimate to [-limit, limit]; the only threshold that also applies to samples that are no images.

    Attributes:
        limit: the largest absolute value.
    """

    limit: float

    def __call__(self, clean: Samples) -> Samples:
        """Returns the clipped estimate."""
        return jnp.clip(clean, -self.limit, self.limit)


THRESHOLDS: dict[str, Callable[..., Threshold]] = {
    "none": lambda percentile, max_threshold=None: no_threshold,
    "static": lambda percentile, max_threshold=None: static_threshold,
    "dynamic": dynamic_threshold,
    "clip": lambda percentile, max_threshold=1.0: Clip(max_threshold),
}
"""``THRESHOLDS[name](percentile, max_threshold)``; "dynamic" uses the two arguments, and "clip" the second."""


def apply_threshold(denoise: Denoiser, threshold: Threshold) -> Denoiser:
    """Makes a denoiser whose estimate is thresholded."""

    def bounded(noisy: Samples, log_snr: PerExample) -> Estimate:
        clean, gamma = split_estimate(denoise(noisy, log_snr))
        return join_estimate(threshold(clean), gamma)

    return bounded
