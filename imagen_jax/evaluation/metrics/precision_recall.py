r"""Precision and recall of a set of pictures (Kynkäänniemi et al. 2019, equations 1 to 3).

Around each picture of a set lies a ball that reaches its k-th nearest neighbour in the set; their union stands for
what the set could be.

    precision = share of our pictures that lie in a ball of a real one                                  (1)
    recall    = share of real pictures that lie in a ball of one of ours                                (2)

Precision asks whether pictures are good, recall whether all kinds of them come. Both depend on the numbers of pictures.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from imagen_jax.errors import UserError
from imagen_jax.evaluation.metrics.frechet import check_finite, check_widths

NEIGHBOURS = 3

BLOCK_BYTES = 2**28
"""Memory of one block of distances; some three of them are held at once."""

ROUNDING = 1e-13
"""Squared distances below this share of the squared lengths are those of equal features, of which a product of matrices
makes a little more or less than 0."""


@dataclass(frozen=True)
class PrecisionRecall:
    """Both measures and what they are of.

    Attributes:
        precision: equation (1), in [0, 1].
        recall: equation (2), in [0, 1].
        neighbours: k.
        pictures: of our set.
        reference_pictures: real ones.
    """

    precision: float
    recall: float
    neighbours: int
    pictures: int
    reference_pictures: int

    def as_dict(self) -> dict[str, Any]:
        """The fields, by name."""
        return asdict(self)


def precision_recall(
    features: Float[np.ndarray, "pictures features"],
    reference: Float[np.ndarray, "reference_pictures reference_features"],
    neighbours: int = NEIGHBOURS,
    block_bytes: int = BLOCK_BYTES,
    reference_radii: Float[np.ndarray, " reference_pictures"] | None = None,
) -> PrecisionRecall:
    """Measures precision and recall in memory that doesn't grow with the product of the numbers of pictures.

    Args:
        features: of our pictures.
        reference: of real ones.
        neighbours: k.
        block_bytes: memory of one block of distances.
        reference_radii: what ``neighbourhood_radii`` gave for the reference and k, where it was kept.

    Raises:
        UserError: a side has k pictures or fewer, or a feature that is not finite, or their widths differ.
    """
    check_widths(features.shape[1], reference.shape[1])
    for one in (features, reference):
        if len(one) <= neighbours:
            raise UserError(f"precision and recall take more than {neighbours} pictures on each side, not {len(one)}")
        check_finite(one)
    # Distances don't depend on the origin, and what is lost to rounding does.
    centre = reference.mean(axis=0, dtype=np.float64)
    ours, theirs = features - centre, reference - centre
    our_radii = squared_radii(ours, neighbours, block_bytes)
    their_radii = squared_radii(theirs, neighbours, block_bytes) if reference_radii is None else reference_radii
    precise = np.zeros(len(ours), bool)
    recalled = np.zeros(len(theirs), bool)
    for rows, squared in squared_distances(ours, theirs, block_bytes):
        precise[rows] = (squared <= their_radii).any(axis=1)
        recalled |= (squared <= our_radii[rows, None]).any(axis=0)
    return PrecisionRecall(share_of(precise), share_of(recalled), neighbours, len(ours), len(theirs))


def share_of(members: Bool[np.ndarray, " pictures"]) -> float:
    """How many of them are true, in [0, 1]."""
    return float(np.mean(members))


def neighbourhood_radii(
    reference: Float[np.ndarray, "pictures features"], neighbours: int = NEIGHBOURS, block_bytes: int = BLOCK_BYTES
) -> Float[np.ndarray, " pictures"]:
    """Squared radii of the balls around the pictures of a reference, for ``precision_recall``.

    They depend on the reference alone and take as long as all the rest, so they are worth keeping.
    """
    return squared_radii(reference - reference.mean(axis=0, dtype=np.float64), neighbours, block_bytes)


def squared_radii(
    features: Float[np.ndarray, "pictures features"], neighbours: int, block_bytes: int
) -> Float[np.ndarray, " pictures"]:
    """Squared distance of each picture to its k-th nearest neighbour."""
    radii = np.empty(len(features))
    for rows, squared in squared_distances(features, features, block_bytes):
        # The nearest of all is the picture itself.
        radii[rows] = np.partition(squared, neighbours, axis=1)[:, neighbours]
    return radii


def squared_distances(
    ours: Float[np.ndarray, "pictures features"], theirs: Float[np.ndarray, "others features"], block_bytes: int
) -> Iterator[tuple[slice, Float[np.ndarray, "block others"]]]:
    """Squared distances of some of our pictures to all others, block by block, with the rows they are of."""
    lengths, other_lengths = (np.einsum("pf,pf->p", one, one) for one in (ours, theirs))
    step = max(1, block_bytes // (8 * len(theirs)))
    for start in range(0, len(ours), step):
        rows = slice(start, min(start + step, len(ours)))
        sums = lengths[rows, None] + other_lengths
        squared = ours[rows] @ theirs.T
        squared *= -2.0
        squared += sums
        sums *= ROUNDING
        squared[squared < sums] = 0.0
        yield rows, squared
