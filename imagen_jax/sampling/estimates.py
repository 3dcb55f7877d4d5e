"""A denoiser's output, with or without a learned variance, as a pair."""

from imagen_jax.array_types import Estimate, EstimateWithVariance, Samples


def split_estimate(estimate: Estimate) -> tuple[Samples, Samples | None]:
    """Returns the estimate of the clean samples, and γ if the network learns its variance (else None)."""
    if isinstance(estimate, EstimateWithVariance):
        return estimate.clean, estimate.gamma
    return estimate, None


def join_estimate(clean: Samples, gamma: Samples | None) -> Estimate:
    """Reverses ``split_estimate``."""
    return clean if gamma is None else EstimateWithVariance(clean, gamma)
