r"""Precision and recall of a set of images (Kynkäänniemi et al. 2019, equations 1 to 3).

Each image of a set has a ball around it, up to its k-th nearest neighbour in the set. The union of these balls
approximates the set's distribution.

    precision = share of our images that are in a ball of a real one                                    (1)
    recall    = share of real images that are in a ball of one of ours                                  (2)

Precision measures the quality of images, recall their variety. Both depend on the numbers of images.
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
"""The memory of one block of distances, in bytes. About three blocks exist at once."""

ROUNDING = 1e-13
"""Squared distances below this share of the summed squared lengths count as zero. For equal features, rounding
makes the matrix product slightly more or less than 0."""


@dataclass(frozen=True)
class PrecisionRecall:
    """Both measures, and how they were computed.

    Attributes:
        precision: equation (1), in [0, 1].
        recall: equation (2), in [0, 1].
        neighbours: k.
        pictures: the number of our images.
        reference_pictures: the number of real images.
    """

    precision: float
    recall: float
    neighbours: int
    pictures: int
    reference_pictures: int

    def as_dict(self) -> dict[str, Any]:
        """Returns the fields by name."""
        return asdict(self)


def precision_recall(
    features: Float[np.ndarray, "images features"],
    reference: Float[np.ndarray, "reference_images reference_features"],
    neighbours: int = NEIGHBOURS,
    block_bytes: int = BLOCK_BYTES,
    reference_radii: Float[np.ndarray, " reference_images"] | None = None,
) -> PrecisionRecall:
    """Computes precision and recall, in blocks of bounded memory.

    Args:
        features: the features of our images.
        reference: the features of real images.
        neighbours: k.
        block_bytes: the memory of one block of distances, in bytes.
        reference_radii: the stored result of ``neighbourhood_radii`` for this reference and k; computed if None.

    Raises:
        UserError: a side has k images or fewer, a feature is not finite, or the widths differ.
    """
    check_widths(features.shape[1], reference.shape[1])
    for one in (features, reference):
        if len(one) <= neighbours:
            raise UserError(f"precision and recall need more than {neighbours} images on each side, not {len(one)}")
        check_finite(one)
    # Centring does not change distances, but reduces rounding errors.
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


def share_of(members: Bool[np.ndarray, " images"]) -> float:
    """Returns the share of true values, in [0, 1]."""
    return float(np.mean(members))


def neighbourhood_radii(
    reference: Float[np.ndarray, "images features"], neighbours: int = NEIGHBOURS, block_bytes: int = BLOCK_BYTES
) -> Float[np.ndarray, " images"]:
    """Returns the squared radii of the balls around the images of a reference, for ``precision_recall``.

    They depend only on the reference and take half of the total time, so they are worth storing.
    """
    return squared_radii(reference - reference.mean(axis=0, dtype=np.float64), neighbours, block_bytes)


def squared_radii(
    features: Float[np.ndarray, "images features"], neighbours: int, block_bytes: int
) -> Float[np.ndarray, " images"]:
    """Returns the squared distance of each image to its k-th nearest neighbour."""
    radii = np.empty(len(features))
    for rows, squared in squared_distances(features, features, block_bytes):
        # Index 0 is the image itself.
        radii[rows] = np.partition(squared, neighbours, axis=1)[:, neighbours]
    return radii


def squared_distances(
    ours: Float[np.ndarray, "images features"], theirs: Float[np.ndarray, "others features"], block_bytes: int
) -> Iterator[tuple[slice, Float[np.ndarray, "block others"]]]:
    """Yields slices of our images, each with the squared distances of these images to all others."""
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
