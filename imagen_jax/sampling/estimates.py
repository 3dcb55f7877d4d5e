"""A denoiser's output, with or without a learned variance, as a pair."""

from imagen_jax.array_types import Estimate, Images, ImageWithVariance


def split_estimate(estimate: Estimate) -> tuple[Images, Images | None]:
    """Returns the estimate of the clean image, and γ if the network learns its variance (else None)."""
    if isinstance(estimate, ImageWithVariance):
        return estimate.image, estimate.gamma
    return estimate, None


def join_estimate(image: Images, gamma: Images | None) -> Estimate:
    """Reverses ``split_estimate``."""
    return image if gamma is None else ImageWithVariance(image, gamma)
