"""What a denoiser says, with and without a learned variance, as one pair."""

from imagen_jax.array_types import Estimate, Images, ImageWithVariance


def split_estimate(estimate: Estimate) -> tuple[Images, Images | None]:
    """The estimate of the clean image, and γ where the network learns its variance."""
    if isinstance(estimate, ImageWithVariance):
        return estimate.image, estimate.gamma
    return estimate, None


def join_estimate(image: Images, gamma: Images | None) -> Estimate:
    """Undoes ``split_estimate``."""
    return image if gamma is None else ImageWithVariance(image, gamma)
