r"""Caption recall: does the text reach the picture?

Training captions are drawn once each. A picture counts when its own caption's image is among the k nearest of *all*
training images. A network that ignores its text scores k/m among m images, and so does a good one whose captions are
shuffled, which is the control.

    recall@k = share of pictures with rank ≤ k,    rank = 1 + number of other images at least as near       (1)
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

SHUFFLES = 20


@dataclass(frozen=True)
class CaptionRecall:
    """The measure and its control.

    Attributes:
        recall: share of pictures near their own caption's image, in [0, 1].
        shuffled: the same with captions shuffled, the mean of ``SHUFFLES`` shuffles.
        shuffled_largest: the largest of those.
        chance: k/m, what guessing gives.
        chance_upper_bound: guessing stays below it in 99 of 100 measurements of this size.
        samples: pictures drawn.
        images: m, training images they were compared with.
        k: how near is near.
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
        """The fields, by name."""
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
        sample_features: of the drawn pictures.
        own_index: for each picture, the place of its caption's image among ``image_features``.
        image_features: of all training images.
        k: how near is near.
        seed: of the shuffles.
    """
    similarity = cosine_similarity(sample_features, image_features)
    generator = np.random.default_rng(seed)
    shuffled = []
    for _ in range(SHUFFLES):
        # A rotation of a random order gives every picture another one's caption.
        order = generator.permutation(len(own_index))
        others = np.empty_like(own_index)
        others[order] = own_index[np.roll(order, 1)]
        shuffled.append(recall_at(ranks_of(similarity, others), k))
    return CaptionRecall(
        recall=recall_at(ranks_of(similarity, own_index), k),
        shuffled=float(np.mean(shuffled)),
        shuffled_largest=float(np.max(shuffled)),
        chance=k / len(image_features),
        chance_upper_bound=binomial_bound(len(own_index), k / len(image_features)) / len(own_index),
        samples=len(own_index),
        images=len(image_features),
        k=k,
    )


def cosine_similarity(
    ours: Float[np.ndarray, "samples features"], theirs: Float[np.ndarray, "images features"]
) -> Float[np.ndarray, "samples images"]:
    """Cosine of the angle between each pair of features."""

    def normalise(features: np.ndarray) -> np.ndarray:
        return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)

    return normalise(ours) @ normalise(theirs).T


def ranks_of(
    similarity: Float[np.ndarray, "samples images"], own_index: Int[np.ndarray, " samples"]
) -> Int[np.ndarray, " samples"]:
    """The rank of each picture's own image, 1 for the nearest; ties count against it. Equation (1)."""
    own = similarity[np.arange(len(own_index)), own_index]
    return (similarity >= own[:, None]).sum(axis=1)


def recall_at(ranks: Int[np.ndarray, " samples"], k: int) -> float:
    """The share of ranks up to ``k``."""
    return float(np.mean(ranks <= k))


def binomial_bound(trials: int, chance: float, confidence: float = 0.99) -> int:
    """The smallest number of successes that a binomial variable stays at or below with this confidence."""
    total = 0.0
    for successes in range(trials + 1):
        total += math.comb(trials, successes) * chance**successes * (1 - chance) ** (trials - successes)
        if total >= confidence:
            return successes
    return trials
