r"""The Fréchet distance between two sets of features, with a Gaussian fitted to each (Heusel et al. 2017, equation 6).

    batches of features -> RunningMoments -> Moments ─┬─ merge, over hosts in any order -> frechet_distance
                                                      └─ reference_statistics: stored on disk

    d² = |μ₁ - μ₂|² + tr(Σ₁ + Σ₂ - 2 (Σ₁ Σ₂)^½)                                                       (1)

It is called FID only for the features of the Inception-v3 of 2015. Its expected value falls with the number of images,
so distances are comparable only at equal numbers.
"""

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from imagen_jax.errors import UserError

BLOCK = 256
"""The number of columns in each block of a product of triangular matrices."""


class Moments(NamedTuple):
    """The moments of features, in float64. Moments of parts can be merged in any order.

    Attributes:
        pictures: the number of images.
        mean: the mean of their features.
        scatter: the sum over images of the outer products of their deviations from the mean.
    """

    pictures: int
    mean: Float[np.ndarray, " features"]
    scatter: Float[np.ndarray, "features features"]

    @property
    def covariance(self) -> Float[np.ndarray, "features features"]:
        """The unbiased covariance, for at least two images."""
        return self.scatter / (self.pictures - 1)


class Gaussian(NamedTuple):
    """The content of published statistics: sufficient for a distance, but not for a merge.

    Attributes:
        pictures: the number of images; None if unknown.
        mean: the mean of the features.
        covariance: the unbiased covariance of the features.
    """

    pictures: int | None
    mean: Float[np.ndarray, " features"]
    covariance: Float[np.ndarray, "features features"]


@dataclass(frozen=True)
class FrechetDistance:
    """The distance, and how it was measured.

    Attributes:
        distance: equation (1), squared as is usual, at least 0.
        of_means: the first term of the distance, |μ₁ - μ₂|²; the rest is that of the covariances.
        pictures: the number of measured images; None if unknown.
        reference_pictures: the number of reference images; None if unknown.
        features: the number of features.
    """

    distance: float
    of_means: float
    pictures: int | None
    reference_pictures: int | None
    features: int

    def as_dict(self) -> dict[str, Any]:
        """Returns the fields by name."""
        return asdict(self)


def no_moments(width: int) -> Moments:
    """Returns the moments of no images, for example of a host without images. Merging them changes nothing."""
    return Moments(0, np.zeros(width), np.zeros((width, width)))


def moments_of(features: Float[np.ndarray, "images features"]) -> Moments:
    """Returns the moments of the features of some images.

    Raises:
        UserError: there are no images, or a feature is not finite.
    """
    if not len(features):
        raise UserError("there are no images to measure a distance of: give at least 2")
    check_finite(features)
    exact = features.astype(np.float64)
    mean = exact.mean(0)
    exact -= mean
    return Moments(len(features), mean, exact.T @ exact)


def check_finite(features: Float[np.ndarray, "images features"], before: int = 0) -> None:
    """Checks that all features are finite numbers.

    Args:
        features: the features of some images.
        before: the number of earlier images, which is added to the index in the error message.

    Raises:
        UserError: a feature is not finite. The message has the number of such images and the index of the first.
    """
    bad = np.flatnonzero(~np.isfinite(features).all(1))
    if len(bad):
        raise UserError(
            f"{len(bad)} of {len(features)} images have features that are not finite numbers, the first is image "
            f"{before + int(bad[0])}, counted from 0: check this image and the weights of the network"
        )


def merge(first: Moments, second: Moments) -> Moments:
    """Returns the moments of the union of two parts (Chan, Golub & LeVeque 1979, equation 2.1).

    Raises:
        UserError: their features differ in width.
    """
    check_widths(first.mean.size, second.mean.size)
    count = first.pictures + second.pictures
    if not count:
        return first
    apart = second.mean - first.mean
    mean = first.mean + apart * (second.pictures / count)
    between = np.outer(apart, apart * (first.pictures * second.pictures / count))
    between += first.scatter
    between += second.scatter
    return Moments(count, mean, between)


def check_widths(first: int, second: int) -> None:
    """Checks that two sets of features have the same width.

    Raises:
        UserError: the widths differ.
    """
    if first != second:
        raise UserError(
            f"features of width {first} can't be compared with those of width {second}: measure both with one network"
        )


class RunningMoments:
    """Accumulates the moments of features that arrive in batches.

    A product of 32 rows costs nearly as much as one of a thousand. Batches are therefore buffered until there are as
    many images as features. This takes twice the memory of the result.
    """

    def __init__(self, width: int) -> None:
        self._moments = no_moments(width)
        self._waiting: list[np.ndarray] = []
        self._rows = 0

    @property
    def pictures(self) -> int:
        """The number of images added so far."""
        return self._moments.pictures + self._rows

    def add(self, features: Float[np.ndarray, "images features"]) -> None:
        """Adds a batch of any size.

        Raises:
            UserError: a feature is not finite, or the width differs. Nothing is added in this case.
        """
        width = self._moments.mean.size
        check_widths(features.shape[1], width)
        check_finite(features, self.pictures)
        self._waiting.append(np.array(features))  # a copy: the caller may reuse its array as a buffer
        self._rows += len(features)
        if self._rows >= width:
            self._moments = self.result()
            self._waiting, self._rows = [], 0

    def result(self) -> Moments:
        """Returns the moments of all images so far. More can be added afterwards."""
        return merge(self._moments, moments_of(np.concatenate(self._waiting))) if self._rows else self._moments


def describe_count(count: int, width: int) -> list[str]:
    """Returns warnings for a report: with no more images than features, the covariance is singular."""
    if count > width:
        return []
    return [
        f"{count} images for {width} features: the covariance has at most rank {max(count - 1, 0)}, so distances are "
        "biased upwards and comparable only at this number of images"
    ]


def frechet_distance(first: Moments | Gaussian, second: Moments | Gaussian) -> float:
    """Returns equation (1), squared as is usual, at least 0.

    Raises:
        UserError: a set has fewer than two images, or their features differ in width.
    """
    return measure_frechet_distance(first, second).distance


def measure_frechet_distance(measured: Moments | Gaussian, reference: Moments | Gaussian) -> FrechetDistance:
    """Computes equation (1), and returns it with the details for a report.

    It uses one BLAS thread: OpenBLAS's threads wait for each other in busy loops. On a machine with other load they
    took eight times as long as one thread (``tests/benchmarks/frechet_distance.md``).

    Raises:
        UserError: a set has fewer than two images, or their features differ in width.
    """
    for one in (measured, reference):
        if one.pictures is not None and one.pictures < 2:
            raise UserError(f"a Fréchet distance needs at least 2 images on each side, not {one.pictures}: give more")
    check_widths(measured.mean.size, reference.mean.size)
    first, second = (Gaussian(one.pictures, one.mean, one.covariance) for one in (measured, reference))
    of_means = float(np.sum(np.square(first.mean - second.mean)))
    traces = float(np.trace(first.covariance) + np.trace(second.covariance))
    with threadpool_limits(1, "blas"):
        distance = max(0.0, of_means + traces - 2.0 * trace_of_root(first, second))
    return FrechetDistance(distance, of_means, measured.pictures, reference.pictures, first.mean.size)


def trace_of_root(first: Gaussian, second: Gaussian) -> float:
    """Returns tr((Σ₁ Σ₂)^½): the sum of the roots of the eigenvalues of Rᵀ Σ₂ R, for any R with Σ₁ = R Rᵀ.

    These eigenvalues are real and need no square root of an asymmetric matrix. R is the Cholesky factor of a covariance
    of full rank. If neither has full rank, R comes from the eigenvectors of the covariance of lower rank.
    """
    width = first.mean.size
    ranks = [width if one.pictures is None else min(width, one.pictures - 1) for one in (first, second)]
    pairs = sorted(zip(ranks, (first, second), (second, first), strict=True), key=lambda pair: pair[0])
    for rank, factored, other in reversed(pairs):
        if rank < width:
            continue
        try:
            between = lower_congruence(np.linalg.cholesky(factored.covariance), other.covariance)
        except np.linalg.LinAlgError:  # a feature is the same in all images, or is a linear combination of others
            continue
        break
    else:
        rank, factored, other = pairs[0]
        values, vectors = np.linalg.eigh(factored.covariance)
        root = vectors[:, width - rank :] * np.sqrt(np.maximum(values[width - rank :], 0.0))
        between = root.T @ other.covariance @ root
    # Eigenvalues beyond the rank are 0 except for rounding: about 1e-16, with roots of 1e-8, of which thousands add up.
    values = np.linalg.eigvalsh(between)[-min(ranks) :]
    return float(np.sum(np.sqrt(np.maximum(values, 0.0))))


def lower_congruence(
    lower: Float[np.ndarray, "features features"], symmetric: Float[np.ndarray, "features features"]
) -> Float[np.ndarray, "features features"]:
    """Returns Lᵀ S L for a lower triangular L. Only its lower triangle is valid, which is all that ``eigvalsh`` reads.

    It works in blocks, to avoid multiplications by zeros: 5/3 n³ operations instead of 4 n³.
    """
    width = len(lower)
    product, result = np.zeros_like(symmetric), np.zeros_like(symmetric)
    for start in range(0, width, BLOCK):
        block = slice(start, start + BLOCK)
        product[block] = lower[start:, block].T @ symmetric[start:]
    for start in range(0, width, BLOCK):
        block = slice(start, start + BLOCK)
        result[start:, block] = product[start:, start:] @ lower[start:, block]
    return result
