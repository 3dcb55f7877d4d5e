r"""The kernel distance between two sets of features (Bińkowski et al. 2018, section 4).

    k(x, y) = (xᵀy / d + 1)³                                                                           (1)

    MMD² = Σ_{i≠j} k(xᵢ, xⱼ) / m(m-1) + Σ_{i≠j} k(yᵢ, yⱼ) / m(m-1) - 2 Σ_{i,j} k(xᵢ, yⱼ) / m²              (2)

Equation (2) is unbiased (Gretton et al. 2012, equation 3). Unlike the Fréchet distance, its expected value does not
depend on the number of images. For two equal distributions it is around 0, and can be negative. It is called KID only
for the features of the Inception-v3 of 2015.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from imagen_jax.errors import UserError
from imagen_jax.evaluation.metrics.frechet import check_finite, check_widths

SUBSETS = 100
SUBSET_SIZE = 1000
SEED = 2020


@dataclass(frozen=True)
class KernelDistance:
    """The distance, and how it was measured.

    Attributes:
        distance: the mean of equation (2) over the subsets.
        standard_deviation: the standard deviation over the subsets. They overlap, so it is not the error of the mean.
            None if there is one subset with all images of both sides.
        subsets: the number of subsets.
        subset_size: m, the number of images per side in a subset. It is lower than requested if a side has fewer.
        pictures: the number of measured images.
        reference_pictures: the number of reference images.
    """

    distance: float
    standard_deviation: float | None
    subsets: int
    subset_size: int
    pictures: int
    reference_pictures: int

    def as_dict(self) -> dict[str, Any]:
        """Returns the fields by name."""
        return asdict(self)


def kernel_distance(
    features: Float[np.ndarray, "images features"],
    reference: Float[np.ndarray, "reference_images reference_features"],
    subsets: int = SUBSETS,
    subset_size: int = SUBSET_SIZE,
    seed: int = SEED,
) -> KernelDistance:
    """Computes the kernel distance over random subsets, sampled like those of torch-fidelity.

    Args:
        features: the features of the measured images.
        reference: the features of the reference images.
        subsets: the number of subsets. It is reduced to one if a subset has all images of both sides.
        subset_size: the number of images per side in a subset, at most all images of the smaller side.
        seed: the seed of the subsets.

    Raises:
        UserError: a side has fewer than two images, a feature is not finite, or the widths differ.
    """
    check_widths(features.shape[1], reference.shape[1])
    size = min(len(features), len(reference), subset_size)
    if size < 2:
        raise UserError(f"a kernel distance needs at least 2 images in a subset, not {size}: give more")
    check_finite(features)
    check_finite(reference)
    if size == len(features) == len(reference):
        subsets = 1
    # NumPy's legacy generator, because its numbers are the same in all versions, and torch-fidelity uses it too.
    random = np.random.RandomState(seed)
    distances = []
    for _ in range(subsets):
        ours = features[random.choice(len(features), size, replace=False)]
        theirs = reference[random.choice(len(reference), size, replace=False)]
        distances.append(squared_discrepancy(ours.astype(np.float64), theirs.astype(np.float64)))
    return KernelDistance(
        distance=float(np.mean(distances)),
        standard_deviation=float(np.std(distances)) if subsets > 1 else None,
        subsets=subsets,
        subset_size=size,
        pictures=len(features),
        reference_pictures=len(reference),
    )


def squared_discrepancy(ours: Float[np.ndarray, "m features"], theirs: Float[np.ndarray, "m features"]) -> float:
    """Computes equation (2) for two subsets of at least two images each."""
    count = len(ours)
    within = 0.0
    for one in (ours, theirs):
        similarity = polynomial_kernel(one, one)
        within += float(similarity.sum() - np.trace(similarity)) / (count * (count - 1))
    return within - 2.0 * float(polynomial_kernel(ours, theirs).sum()) / count**2


def polynomial_kernel(
    ours: Float[np.ndarray, "m features"], theirs: Float[np.ndarray, "n features"]
) -> Float[np.ndarray, "m n"]:
    """Computes equation (1) for each pair."""
    kernel = ours @ theirs.T / ours.shape[1] + 1.0
    return kernel * kernel * kernel  # ten times as fast as a power of 3
