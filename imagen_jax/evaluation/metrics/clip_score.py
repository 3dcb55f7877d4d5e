r"""Measures how well images match their captions, with a network that embeds both (CLIP; Radford et al. 2021).

    CLIP score = mean of cos(image, own caption)               (1)    as Saharia et al. 2022 plot it against FID
    CLIPScore  = mean of 2.5 max(cos(image, own caption), 0)   (2)    Hessel et al. 2021, section 3
    R-precision = share of images to which, among R captions,
                  none of the others is as near as its own     (3)    Xu et al. 2018, section 4.1; Park et al. 2021

All numbers depend on the CLIP model. Equation (2) also depends on the prefix "A photo depicts", which Hessel et al. put
before each caption.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from imagen_jax.errors import UserError
from imagen_jax.evaluation.metrics.caption_recall import ROUNDING
from imagen_jax.evaluation.metrics.frechet import check_finite

HESSELS_FACTOR = 2.5
CANDIDATES = 100


@dataclass(frozen=True)
class ClipScore:
    """Both scores and their standard errors.

    Attributes:
        cosine: equation (1), in [-1, 1]; good images have around 0.3.
        cosine_error: the standard error of ``cosine``; NaN for a single image.
        hessel: equation (2), in [0, 2.5].
        hessel_error: the standard error of ``hessel``; NaN for a single image.
        pictures: the number of images.
    """

    cosine: float
    cosine_error: float
    hessel: float
    hessel_error: float
    pictures: int

    def as_dict(self) -> dict[str, Any]:
        """Returns the fields by name."""
        return asdict(self)


@dataclass(frozen=True)
class RPrecision:
    """The R-precision and the result of guessing.

    Attributes:
        precision: equation (3), in [0, 1].
        standard_error: the standard error of ``precision``, as a binomial proportion.
        chance: 1 / R.
        candidates: R, the number of captions per image, its own included. It is lower than requested if there are too
            few distinct captions.
        pictures: the number of images.
    """

    precision: float
    standard_error: float
    chance: float
    candidates: int
    pictures: int

    def as_dict(self) -> dict[str, Any]:
        """Returns the fields by name."""
        return asdict(self)


def clip_score(
    images: Float[np.ndarray, "images features"], captions: Float[np.ndarray, "images features"]
) -> ClipScore:
    """Computes equations (1) and (2).

    Args:
        images: the embeddings of images, which need not have unit length.
        captions: the embeddings of their captions, row by row.

    Raises:
        UserError: there are no images, or an embedding is not finite or is zero.
    """
    cosines = np.sum(unit(images) * unit(captions), axis=1)
    hessels = HESSELS_FACTOR * np.maximum(cosines, 0.0)
    return ClipScore(
        cosine=float(cosines.mean()),
        cosine_error=standard_error(cosines),
        hessel=float(hessels.mean()),
        hessel_error=standard_error(hessels),
        pictures=len(cosines),
    )


def standard_error(values: Float[np.ndarray, " images"]) -> float:
    """Returns the standard error of the mean of these values; NaN for a single one."""
    return float(np.std(values, ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else math.nan


def unit(embeddings: Float[np.ndarray, "images features"]) -> Float[np.ndarray, "images features"]:
    """Normalises embeddings to unit length, in float64.

    Raises:
        UserError: there are no embeddings, or one is not finite or is zero.
    """
    if not len(embeddings):
        raise UserError("there are no images to compare with their captions: sample at least 1")
    check_finite(embeddings)
    exact = embeddings.astype(np.float64)
    lengths = np.linalg.norm(exact, axis=1, keepdims=True)
    if not lengths.all():
        raise UserError(
            f"{int(np.sum(lengths == 0))} of {len(embeddings)} embeddings are zero and have no direction: check the "
            "network's weights"
        )
    return exact / lengths


def r_precision(
    images: Float[np.ndarray, "images features"],
    captions: Float[np.ndarray, "images features"],
    texts: Sequence[str] | None = None,
    candidates: int = CANDIDATES,
    seed: int = 0,
) -> RPrecision:
    """Computes equation (3). The other candidates of each image are sampled without replacement.

    Args:
        images: the embeddings of images, which need not have unit length.
        captions: the embeddings of their captions, row by row.
        texts: the captions. An image is never compared with a caption equal to its own. If None, all captions count as
            distinct.
        candidates: R, the number of captions per image, its own included.
        seed: the seed of the sampling of candidates.

    Raises:
        UserError: there are no other captions to compare with, or an embedding is not finite or is zero.
    """
    ours, theirs = unit(images), unit(captions)
    count = len(ours)
    _, group = np.unique(np.arange(count) if texts is None else np.asarray(texts), return_inverse=True)
    max_equal = int(np.bincount(group).max())
    candidates = min(candidates, count - max_equal + 1)
    if candidates < 2:
        raise UserError(
            f"R-precision needs different captions, but {max_equal} of {count} are the same: give other captions"
        )
    right = 0
    for number, others in enumerate(sample_others(group, candidates - 1, np.random.default_rng(seed))):
        own = ours[number] @ theirs[number]
        right += int(np.all(theirs[others] @ ours[number] < own - ROUNDING))
    precision = right / count
    error = math.sqrt(precision * (1.0 - precision) / count)
    return RPrecision(precision, error, 1.0 / candidates, candidates, count)


def sample_others(
    group: Int[np.ndarray, " images"], count: int, generator: np.random.Generator
) -> list[Int[np.ndarray, " others"]]:
    """Returns the indices of ``count`` random images for each image, all from groups other than its own."""
    # In an order sorted by group, an image's own group is one run. Positions from its start on skip its length.
    order = np.argsort(group, kind="stable")
    sizes = np.bincount(group)
    starts = np.cumsum(sizes) - sizes
    sampled = []
    for own in group:
        positions = generator.choice(len(group) - sizes[own], count, replace=False, shuffle=False)
        sampled.append(order[np.where(positions >= starts[own], positions + sizes[own], positions)])
    return sampled
