r"""Caption recall: measures whether sampled images follow their captions.

One image is sampled for each of some distinct training captions. A sample counts if the training image of its caption
is among the k nearest of *all* training images. A network that ignores its text scores k/m among m images. So does a
good network if its captions are shuffled, which is the control.

    recall@k = share of samples with rank ≤ k,    rank = 1 + number of other images at least as near       (1)

Nearness is the cosine similarity. With EfficientNet-Lite0's features of blurred, noisy or mixed OpenMoji drawings, it
finds more of the originals than Euclidean distance does. For 256 drawings with noise of deviation 0.3, among 1,918, it
finds 91% against 79%.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from imagen_jax.errors import UserError

SHUFFLES = 20
ROUNDING = 1e-6
"""Cosines that differ by less are a tie: the rounded product of equal vectors depends on their rows in the matrix."""


@dataclass(frozen=True)
class CaptionRecall:
    """The recall and its control.

    Attributes:
        recall: the share of samples near their own caption's image, in [0, 1].
        shuffled: the recall with shuffled captions, as the mean of ``SHUFFLES`` shuffles.
        shuffled_largest: the max of these shuffles.
        chance: k/m, the expected recall of guessing.
        chance_upper_bound: the bound that guessing does not exceed in 99 of 100 measurements of this size.
        samples: the number of samples.
        images: m, the number of training images.
        k: the max rank that counts.
    """

    recall: float
    shuffled: float
    shuffled_largest: float
    chance: float
    chance_upper_bound: float
    samples: int
    images: int
    k: int

    def as_dict(self) -> dict[str, Any]:
        """Returns the fields by name."""
        return asdict(self)


def measure_caption_recall(
    sample_features: Float[np.ndarray, "samples features"],
    own_index: Int[np.ndarray, " samples"],
    image_features: Float[np.ndarray, "images features"],
    k: int = 10,
    seed: int = 0,
) -> CaptionRecall:
    """Measures caption recall and its shuffled control.

    Args:
        sample_features: the features of the samples.
        own_index: the index of each sample's own image in ``image_features``.
        image_features: the features of all training images.
        k: the max rank that counts.
        seed: the seed of the shuffles.

    Raises:
        UserError: there are fewer than two samples, so that captions cannot be shuffled.
    """
    if len(own_index) < 2:
        raise UserError("caption recall shuffles captions, but there are fewer than 2 images: sample at least 2")
    similarity = cosine_similarity(sample_features, image_features)
    chance = min(1.0, k / len(image_features))
    generator = np.random.default_rng(seed)
    shuffled = []
    for _ in range(SHUFFLES):
        # Rotating a random order gives every sample the caption of another one.
        order = generator.permutation(len(own_index))
        others = np.empty_like(own_index)
        others[order] = own_index[np.roll(order, 1)]
        shuffled.append(recall_at(ranks_of(similarity, others), k))
    return CaptionRecall(
        recall=recall_at(ranks_of(similarity, own_index), k),
        shuffled=float(np.mean(shuffled)),
        shuffled_largest=float(np.max(shuffled)),
        chance=chance,
        chance_upper_bound=binomial_bound(len(own_index), chance) / len(own_index),
        samples=len(own_index),
        images=len(image_features),
        k=k,
    )


def cosine_similarity(
    ours: Float[np.ndarray, "samples features"], theirs: Float[np.ndarray, "images features"]
) -> Float[np.ndarray, "samples images"]:
    """Returns the cosine similarity of each pair of features."""

    def normalise(features: np.ndarray) -> np.ndarray:
        return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)

    return normalise(ours) @ normalise(theirs).T


def ranks_of(
    similarity: Float[np.ndarray, "samples images"], own_index: Int[np.ndarray, " samples"]
) -> Int[np.ndarray, " samples"]:
    """Returns the rank of each sample's own image, 1 for the nearest. Ties make the rank worse. Equation (1)."""
    own = similarity[np.arange(len(own_index)), own_index]
    # Not `similarity >= own`: with this form, a sample with NaN features gets the last rank.
    farther = similarity < own[:, None] - ROUNDING
    return (~farther).sum(axis=1)


def recall_at(ranks: Int[np.ndarray, " samples"], k: int) -> float:
    """Returns the share of ranks up to ``k``."""
    return float(np.mean(ranks <= k))


def binomial_bound(trials: int, chance: float, confidence: float = 0.99) -> int:
    """Returns the min number that a binomial variable does not exceed with this confidence."""
    if chance >= 1:
        return trials
    total = 0.0
    for successes in range(trials):
        failures = trials - successes
        # In logarithms, because the binomial coefficients overflow from about a thousand trials on.
        log_choices = math.lgamma(trials + 1) - math.lgamma(successes + 1) - math.lgamma(failures + 1)
        total += math.exp(log_choices + successes * math.log(chance) + failures * math.log1p(-chance))
        if total >= confidence:
            return successes
    return trials
