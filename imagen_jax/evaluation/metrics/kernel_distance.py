r"""The kernel distance between two sets of features (Bińkowski et al. 2018, section 4).

    k(x, y) = (xᵀy / d + 1)³                                                                           (1)

    MMD² = Σ_{i≠j} k(xᵢ, xⱼ) / m(m-1) + Σ_{i≠j} k(yᵢ, yⱼ) / m(m-1) - 2 Σ_{i,j} k(xᵢ, yⱼ) / m²              (2)

Equation (2) is unbiased (Gretton et al. 2012, equation 3): unlike the Fréchet distance it does not shrink with the
number of pictures, and of two equal distributions it is around 0, on either side. Only in features of the Inception-v3
of 2015 it is called KID.
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
    """The distance and how it was measured.

    Attributes:
        distance: mean of equation (2) over the subsets.
        standard_deviation: over the subsets, which share pictures: not the error of the mean. None where one subset
            has all pictures of both sides.
        subsets: how many were drawn.
        subset_size: m, pictures of each side in a subset; fewer than asked for where a side has fewer.
        pictures: of the set that is measured.
        reference_pictures: of the set that it is compared with.
    """

    distance: float
    standard_deviation: float | None
    subsets: int
    subset_size: int
    pictures: int
    reference_pictures: int

    def as_dict(self) -> dict[str, Any]:
        """The fields, by name."""
        return asdict(self)


def kernel_distance(
    features: Float[np.ndarray, "pictures features"],
    reference: Float[np.ndarray, "reference_pictures reference_features"],
    subsets: int = SUBSETS,
    subset_size: int = SUBSET_SIZE,
    seed: int = SEED,
) -> KernelDistance:
    """Measures the kernel distance over random subsets, drawn as torch-fidelity draws them.

    Args:
        features: of the pictures that are measured.
        reference: of those that they are compared with.
        subsets: how many; one where it would have all pictures of both sides.
        subset_size: pictures of each side; all of the smaller side where that has fewer.
        seed: of the subsets.

    Raises:
        UserError: a side has fewer than two pictures, or a feature that is not finite, or their widths differ.
    """
    check_widths(features.shape[1], reference.shape[1])
    size = min(len(features), len(reference), subset_size)
    if size < 2:
        raise UserError(f"a kernel distance takes at least 2 pictures in a subset, not {size}: give more of them")
    check_finite(features)
    check_finite(reference)
    if size == len(features) == len(reference):
        subsets = 1
    # The old generator, since its numbers are the same in all versions of NumPy, and in torch-fidelity.
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
    """Equation (2) of two subsets; at least two pictures in each."""
    count = len(ours)
    within = 0.0
    for one in (ours, theirs):
        similarity = polynomial_kernel(one, one)
        within += float(similarity.sum() - np.trace(similarity)) / (count * (count - 1))
    return within - 2.0 * float(polynomial_kernel(ours, theirs).sum()) / count**2


def polynomial_kernel(
    ours: Float[np.ndarray, "m features"], theirs: Float[np.ndarray, "n features"]
) -> Float[np.ndarray, "m n"]:
    """Equation (1) of each pair."""
    kernel = ours @ theirs.T / ours.shape[1] + 1.0
    return kernel * kernel * kernel  # a power of 3 takes ten times as long
