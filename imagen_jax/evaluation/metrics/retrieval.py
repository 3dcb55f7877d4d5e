r"""Retrieval: finds the captions of an image and the images of a caption, among those of a held-out split.

    rank of a query = 1 + number of wrong items at least as near as its nearest right item                (1)
    recall@k        = share of queries with rank ≤ k                                                      (2)
    chance          = mean over queries of 1 - C(n - r, k) / C(n, k),  r of n items being right           (3)

An image may have several captions, and equal captions are one caption of several images. A query is a hit if any of its
right items is among the k nearest, as Karpathy & Fei-Fei 2015 count it and all who followed. Nearness is the cosine
similarity. Ties count against the query.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float64, Int

from imagen_jax.errors import UserError
from imagen_jax.evaluation.metrics.caption_recall import ROUNDING
from imagen_jax.evaluation.metrics.clip_score import unit
from imagen_jax.evaluation.metrics.zero_shot import check_widths, share_of

KS = (1, 5, 10)

BLOCK = 2**24
"""Max number of cosines in memory at once."""


class CaptionPairs(NamedTuple):
    """Which captions and images belong together.

    Attributes:
        captions: the distinct captions; upper and lower case and the width of spaces make no difference.
        captions_of: indices into ``captions`` of each image, at least one.
        images_of: indices of the images of each caption, at least one.
    """

    captions: tuple[str, ...]
    captions_of: tuple[tuple[int, ...], ...]
    images_of: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Recalls:
    """Recall in one direction.

    Attributes:
        recall: equation (2) by k, in [0, 1].
        standard_error: the standard error of each recall, as a binomial proportion.
        chance: equation (3) by k.
        median_rank: the median rank of the queries.
        queries: number of queries.
        items: n, the number of items that are ranked.
    """

    recall: dict[int, float]
    standard_error: dict[int, float]
    chance: dict[int, float]
    median_rank: float
    queries: int
    items: int

    def as_dict(self) -> dict[str, Any]:
        """Returns plain values by name."""
        by_k = {
            f"{name}_at_{k}": value
            for name in ("recall", "standard_error", "chance")
            for k, value in getattr(self, name).items()
        }
        return {**by_k, "median_rank": self.median_rank, "queries": self.queries, "items": self.items}


class Retrieval(NamedTuple):
    """Recall in both directions.

    Attributes:
        image_to_text: images are the queries, and captions are ranked.
        text_to_image: captions are the queries, and images are ranked.
    """

    image_to_text: Recalls
    text_to_image: Recalls


def pair_captions(captions: Sequence[Sequence[str]]) -> CaptionPairs:
    """Joins equal captions of all images.

    Args:
        captions: captions of each image.

    Raises:
        UserError: an image has no caption, or there are fewer than two distinct captions.
    """
    numbers: dict[str, int] = {}
    shown: list[str] = []
    owners: list[dict[int, None]] = []
    captions_of = []
    for image, own in enumerate(captions):
        if not own:
            raise UserError(
                f"image {image} has no caption, so retrieval can't count it: prepare the data with captions"
            )
        found: dict[int, None] = {}
        for caption in own:
            number = numbers.setdefault(" ".join(caption.casefold().split()), len(shown))
            if number == len(shown):
                shown.append(caption)
                owners.append({})
            found[number] = None
            owners[number][image] = None
        captions_of.append(tuple(found))
    if len(shown) < 2:
        raise UserError(f"retrieval needs different captions, but there is {len(shown)}: use data with more captions")
    return CaptionPairs(tuple(shown), tuple(captions_of), tuple(tuple(images) for images in owners))


def measure_retrieval(
    images: Float[np.ndarray, "images features"],
    captions: Float[np.ndarray, "captions caption_features"],
    pairs: CaptionPairs,
    ks: Sequence[int] = KS,
) -> Retrieval:
    """Measures recall in both directions.

    Args:
        images: embeddings of the images, of any length.
        captions: embeddings of ``pairs.captions``, of any length.
        pairs: the result of ``pair_captions``.
        ks: the ranks that count.

    Raises:
        UserError: the widths differ, or an embedding is not finite or is zero.
    """
    return Retrieval(
        measure_recalls(images, captions, pairs.captions_of, ks),
        measure_recalls(captions, images, pairs.images_of, ks),
    )


def measure_recalls(
    queries: Float[np.ndarray, "queries features"],
    items: Float[np.ndarray, "items item_features"],
    right: Sequence[Sequence[int]],
    ks: Sequence[int] = KS,
) -> Recalls:
    """Measures recall in one direction.

    Args:
        queries: embeddings of the queries, of any length.
        items: embeddings of the items, of any length.
        right: indices of the right items of each query, at least one.
        ks: the ranks that count.

    Raises:
        UserError: the widths differ, or an embedding is not finite or is zero.
    """
    ranks = rank_queries(queries, items, right)
    count = len(ranks)
    shares = {k: share_of(int(np.sum(ranks <= k)), count) for k in ks}
    counts = np.asarray([len(set(own)) for own in right])
    return Recalls(
        recall={k: share for k, (share, _) in shares.items()},
        standard_error={k: error for k, (_, error) in shares.items()},
        chance={k: chance_of(len(items), counts, k) for k in ks},
        median_rank=float(np.median(ranks)),
        queries=count,
        items=len(items),
    )


def rank_queries(
    queries: Float[np.ndarray, "queries features"],
    items: Float[np.ndarray, "items item_features"],
    right: Sequence[Sequence[int]],
) -> Int[np.ndarray, " queries"]:
    """Computes equation (1), block by block, so that large splits fit into memory.

    Raises:
        UserError: the widths differ, or an embedding is not finite or is zero.
    """
    check_widths(queries, items)
    ours, theirs = unit(queries), unit(items)
    rows = max(1, BLOCK // len(theirs))
    ranks = []
    for start in range(0, len(ours), rows):
        cosines = ours[start : start + rows] @ theirs.T
        is_right = mark_right(right[start : start + rows], len(theirs))
        best = np.where(is_right, cosines, -np.inf).max(axis=1, keepdims=True)
        ranks.append(1 + (~is_right & (cosines >= best - ROUNDING)).sum(axis=1))
    return np.concatenate(ranks)


def mark_right(right: Sequence[Sequence[int]], items: int) -> Bool[np.ndarray, "queries {items}"]:
    """Returns which items are right for each query."""
    marks = np.zeros((len(right), items), bool)
    for row, own in enumerate(right):
        marks[row, list(own)] = True
    return marks


def chance_of(items: int, right: Int[np.ndarray, " queries"], k: int) -> float:
    """Computes equation (3): the expected recall@k of a random order.

    Args:
        items: number of items.
        right: number of right items of each query.
        k: the rank that counts.
    """
    misses: Float64[np.ndarray, " queries"] = np.ones(len(right))
    for place in range(min(k, items)):
        misses = misses * np.maximum(items - right - place, 0) / (items - place)
    return float(1.0 - misses.mean())


def nearest_items(
    query: Float[np.ndarray, " features"],
    items: Float[np.ndarray, "items features"],
    right: Sequence[int],
    k: int,
) -> Int[np.ndarray, " nearest"]:
    """Returns the indices of the k nearest items, nearest first. In a tie, wrong items come first, as in equation (1).

    Args:
        query: embedding of the query.
        items: embeddings of the items.
        right: indices of the right items.
        k: max number of items to return.
    """
    (is_right,) = mark_right([right], len(items))
    cosines = (unit(query[None]) @ unit(items).T)[0] - ROUNDING * is_right
    return np.lexsort((is_right, -cosines))[:k]
