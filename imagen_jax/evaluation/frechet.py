r"""The Fréchet distance between two sets of features, each taken for a Gaussian (Heusel et al. 2017, equation 6).

    d² = |μ₁ - μ₂|² + tr(Σ₁ + Σ₂ - 2 (Σ₁ Σ₂)^½)                                                       (1)

Only in features of the Inception-v3 of 2015 it is called FID. It shrinks with the number of pictures, so distances
compare only at equal numbers.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from imagen_jax.errors import UserError


class Moments(NamedTuple):
    """What is kept of features, in float64; those of parts can be merged in any order.

    Attributes:
        pictures: how many.
        mean: of their features.
        scatter: sum over pictures of the outer products of their deviations from the mean.
    """

    pictures: int
    mean: Float[np.ndarray, " features"]
    scatter: Float[np.ndarray, "features features"]

    @property
    def covariance(self) -> Float[np.ndarray, "features features"]:
        """The unbiased covariance; of at least two pictures."""
        return self.scatter / (self.pictures - 1)


def moments_of(features: Float[np.ndarray, "pictures features"]) -> Moments:
    """The moments of some pictures.

    Raises:
        UserError: there is none, or a feature is not finite.
    """
    if not len(features):
        raise UserError("there are no pictures to measure a distance of")
    if not np.isfinite(features).all():
        bad = int((~np.isfinite(features).all(1)).sum())
        raise UserError(f"{bad} of {len(features)} pictures have features that are not finite numbers: look at them")
    exact = features.astype(np.float64)
    mean = exact.mean(0)
    deviations = exact - mean
    return Moments(len(features), mean, deviations.T @ deviations)


def merge(first: Moments, second: Moments) -> Moments:
    """The moments of two parts together (Chan, Golub & LeVeque 1979, equation 2.1)."""
    count = first.pictures + second.pictures
    apart = second.mean - first.mean
    mean = first.mean + apart * (second.pictures / count)
    between = np.outer(apart, apart) * (first.pictures * second.pictures / count)
    return Moments(count, mean, first.scatter + second.scatter + between)


def frechet_distance(first: Moments, second: Moments) -> float:
    """Equation (1), squared as is usual, at least 0.

    The trace of (Σ₁ Σ₂)^½ is that of (Σ₁^½ Σ₂ Σ₁^½)^½, whose eigenvalues are real: no square root of a matrix that is
    not symmetric, and none that fails where features outnumber pictures.

    Raises:
        UserError: a set has fewer than two pictures, or their features differ in width.
    """
    for one in (first, second):
        if one.pictures < 2:
            raise UserError(f"a distance takes at least 2 pictures on each side, not {one.pictures}")
    if first.mean.shape != second.mean.shape:
        raise UserError(
            f"features of width {first.mean.size} can't be compared with those of width {second.mean.size}: measure "
            "both with one network"
        )
    values, vectors = np.linalg.eigh(first.covariance)
    root = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    between = np.linalg.eigvalsh(root @ second.covariance @ root)
    squared = np.sum(np.square(first.mean - second.mean)) + np.trace(first.covariance) + np.trace(second.covariance)
    return max(0.0, float(squared - 2.0 * np.sum(np.sqrt(np.maximum(between, 0.0)))))
