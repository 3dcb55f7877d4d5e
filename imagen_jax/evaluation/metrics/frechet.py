r"""The Fréchet distance between two sets of features, each taken for a Gaussian (Heusel et al. 2017, equation 6).

    batches of features -> RunningMoments -> Moments ─┬─ merge, over hosts in any order -> frechet_distance
                                                      └─ reference_statistics: kept on disk

    d² = |μ₁ - μ₂|² + tr(Σ₁ + Σ₂ - 2 (Σ₁ Σ₂)^½)                                                       (1)

Only in features of the Inception-v3 of 2015 it is called FID. It shrinks with the number of pictures, so distances
compare only at equal numbers.
"""

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from imagen_jax.errors import UserError

BLOCK = 256
"""Columns that a product of triangular matrices takes at once."""


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


class Gaussian(NamedTuple):
    """What published statistics hold: enough for a distance, too little to merge.

    Attributes:
        pictures: how many they are of; None where nobody says.
        mean: of the features.
        covariance: of the features, unbiased.
    """

    pictures: int | None
    mean: Float[np.ndarray, " features"]
    covariance: Float[np.ndarray, "features features"]


@dataclass(frozen=True)
class FrechetDistance:
    """The distance and what it is of.

    Attributes:
        distance: equation (1), squared as is usual, at least 0.
        of_means: its first term, |μ₁ - μ₂|²; the rest is that of the covariances.
        pictures: of the set that is measured.
        reference_pictures: of the set that it is compared with; None where its file does not say.
        features: their width.
    """

    distance: float
    of_means: float
    pictures: int | None
    reference_pictures: int | None
    features: int

    def as_dict(self) -> dict[str, Any]:
        """The fields, by name."""
        return asdict(self)


def no_moments(width: int) -> Moments:
    """The moments of no pictures: those of a host that had none to draw; merged with others they change nothing."""
    return Moments(0, np.zeros(width), np.zeros((width, width)))


def moments_of(features: Float[np.ndarray, "pictures features"]) -> Moments:
    """The moments of some pictures.

    Raises:
        UserError: there is none, or a feature is not finite.
    """
    if not len(features):
        raise UserError("there are no pictures to measure a distance of")
    check_finite(features)
    exact = features.astype(np.float64)
    mean = exact.mean(0)
    exact -= mean
    return Moments(len(features), mean, exact.T @ exact)


def check_finite(features: Float[np.ndarray, "pictures features"], before: int = 0) -> None:
    """Checks that features are numbers.

    Args:
        features: of some pictures.
        before: pictures that came earlier, so that one can be named by its number.

    Raises:
        UserError: one is not; says of how many pictures, and which is the first.
    """
    bad = np.flatnonzero(~np.isfinite(features).all(1))
    if len(bad):
        raise UserError(
            f"{len(bad)} of {len(features)} pictures have features that are not finite numbers, the first of them "
            f"picture {before + int(bad[0])}, counted from 0: look at it, and at the weights of the network"
        )


def merge(first: Moments, second: Moments) -> Moments:
    """The moments of two parts together (Chan, Golub & LeVeque 1979, equation 2.1).

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
    """Checks that two sets of features have one width.

    Raises:
        UserError: they have not.
    """
    if first != second:
        raise UserError(
            f"features of width {first} can't be compared with those of width {second}: measure both with one network"
        )


class RunningMoments:
    """Moments of features that come batch by batch, as if all had come at once.

    A product of 32 rows costs nearly as much as one of a thousand, so batches wait until there are as many pictures as
    features: twice the memory of the result, and one product for each such lot.
    """

    def __init__(self, width: int) -> None:
        self._moments = no_moments(width)
        self._waiting: list[np.ndarray] = []
        self._rows = 0

    @property
    def pictures(self) -> int:
        """How many were added."""
        return self._moments.pictures + self._rows

    def add(self, features: Float[np.ndarray, "pictures features"]) -> None:
        """Adds a batch, of any size.

        Raises:
            UserError: a feature is not finite, or they are of another width; nothing was added then.
        """
        width = self._moments.mean.size
        check_widths(features.shape[1], width)
        check_finite(features, self.pictures)
        self._waiting.append(np.array(features))  # a copy: the caller's array may be a buffer that is filled anew
        self._rows += len(features)
        if self._rows >= width:
            self._moments = self.result()
            self._waiting, self._rows = [], 0

    def result(self) -> Moments:
        """The moments of all pictures so far; more can be added after it."""
        return merge(self._moments, moments_of(np.concatenate(self._waiting))) if self._rows else self._moments


def describe_count(pictures: int, width: int) -> list[str]:
    """What a report should warn of: with no more pictures than features, the covariance is singular."""
    if pictures > width:
        return []
    return [
        f"{pictures} pictures for {width} features: the covariance has rank {max(pictures - 1, 0)} at most, distances "
        "are biased upwards and compare only at this number"
    ]


def frechet_distance(first: Moments | Gaussian, second: Moments | Gaussian) -> float:
    """Equation (1), squared as is usual, at least 0.

    Raises:
        UserError: a set has fewer than two pictures, or their features differ in width.
    """
    return measure_frechet_distance(first, second).distance


def measure_frechet_distance(measured: Moments | Gaussian, reference: Moments | Gaussian) -> FrechetDistance:
    """The same with what a report says of it.

    On one thread: OpenBLAS's threads wait for each other by spinning, and on a machine that has other work took eight
    times as long as one (``tests/benchmarks/frechet_distance.md``).

    Raises:
        UserError: a set has fewer than two pictures, or their features differ in width.
    """
    for one in (measured, reference):
        if one.pictures is not None and one.pictures < 2:
            raise UserError(f"a distance takes at least 2 pictures on each side, not {one.pictures}")
    check_widths(measured.mean.size, reference.mean.size)
    first, second = (Gaussian(one.pictures, one.mean, one.covariance) for one in (measured, reference))
    of_means = float(np.sum(np.square(first.mean - second.mean)))
    traces = float(np.trace(first.covariance) + np.trace(second.covariance))
    with threadpool_limits(1, "blas"):
        distance = max(0.0, of_means + traces - 2.0 * trace_of_root(first, second))
    return FrechetDistance(distance, of_means, measured.pictures, reference.pictures, first.mean.size)


def trace_of_root(first: Gaussian, second: Gaussian) -> float:
    """The trace of (Σ₁ Σ₂)^½: the sum of the roots of the eigenvalues of Rᵀ Σ₂ R, for any R with Σ₁ = R Rᵀ.

    Those are real and need no square root of a matrix that is not symmetric. R is Cholesky's factor of a covariance
    that has full rank; of two that have not, it comes from the eigenvectors of the one of lower rank.
    """
    width = first.mean.size
    ranks = [width if one.pictures is None else min(width, one.pictures - 1) for one in (first, second)]
    pairs = sorted(zip(ranks, (first, second), (second, first), strict=True), key=lambda pair: pair[0])
    for rank, factored, other in reversed(pairs):
        if rank < width:
            continue
        try:
            between = lower_congruence(np.linalg.cholesky(factored.covariance), other.covariance)
        except np.linalg.LinAlgError:  # a feature that is the same in all pictures, or the sum of others
            continue
        break
    else:
        rank, factored, other = pairs[0]
        values, vectors = np.linalg.eigh(factored.covariance)
        root = vectors[:, width - rank :] * np.sqrt(np.maximum(values[width - rank :], 0.0))
        between = root.T @ other.covariance @ root
    # What is beyond the rank is 0 but for rounding, and the root of 1e-16 is 1e-8, two thousand times.
    values = np.linalg.eigvalsh(between)[-min(ranks) :]
    return float(np.sum(np.sqrt(np.maximum(values, 0.0))))


def lower_congruence(
    lower: Float[np.ndarray, "features features"], symmetric: Float[np.ndarray, "features features"]
) -> Float[np.ndarray, "features features"]:
    """The lower triangle, which is all that ``eigvalsh`` reads, of Lᵀ S L for a lower triangular L.

    By blocks, so that what is zero is not multiplied: 5/3 n³ operations instead of 4 n³.
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
