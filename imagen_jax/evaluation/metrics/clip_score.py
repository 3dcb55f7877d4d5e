r"""How well pictures match their captions, by a network that embeds both (CLIP; Radford et al. 2021).

    CLIP score = mean of cos(picture, own caption)               (1)    as Saharia et al. 2022 plot it against FID
    CLIPScore  = mean of 2.5 max(cos(picture, own caption), 0)   (2)    Hessel et al. 2021, section 3
    R-precision = share of pictures to which, among R captions,
                  none of the others is as near as its own       (3)    Xu et al. 2018, section 4.1; Park et al. 2021

All depend on which CLIP it is, and (2) on whether captions begin with "A photo depicts", as Hessel et al. have them.
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
    """Both scores and how sure they are.

    Attributes:
        cosine: equation (1), in [-1, 1]; good pictures have around 0.3.
        cosine_error: its standard error; NaN of a single picture.
        hessel: equation (2), in [0, 2.5].
        hessel_error: its standard error; NaN of a single picture.
        pictures: how many.
    """

    cosine: float
    cosine_error: float
    hessel: float
    hessel_error: float
    pictures: int

    def as_dict(self) -> dict[str, Any]:
        """The fields, by name."""
        return asdict(self)


@dataclass(frozen=True)
class RPrecision:
    """The share and what guessing gives.

    Attributes:
        precision: equation (3), in [0, 1].
        standard_error: of it, as of a share.
        chance: 1 / R.
        candidates: R, captions that each picture is compared with, its own among them; fewer than asked for where
            there are no more different ones.
        pictures: how many.
    """

    precision: float
    standard_error: float
    chance: float
    candidates: int
    pictures: int

    def as_dict(self) -> dict[str, Any]:
        """The fields, by name."""
        return asdict(self)


def clip_score(
    pictures: Float[np.ndarray, "pictures features"], captions: Float[np.ndarray, "pictures features"]
) -> ClipScore:
    """Measures equations (1) and (2).

    Args:
        pictures: their embeddings, of any length.
        captions: the embeddings of their captions, row by row.

    Raises:
        UserError: there is no picture, or an embedding is not finite or is zero.
    """
    cosines = np.sum(unit(pictures) * unit(captions), axis=1)
    hessels = HESSELS_FACTOR * np.maximum(cosines, 0.0)
    return ClipScore(
        cosine=float(cosines.mean()),
        cosine_error=standard_error(cosines),
        hessel=float(hessels.mean()),
        hessel_error=standard_error(hessels),
        pictures=len(cosines),
    )


def standard_error(values: Float[np.ndarray, " pictures"]) -> float:
    """Of their mean; NaN of a single one."""
    return float(np.std(values, ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else math.nan


def unit(embeddings: Float[np.ndarray, "pictures features"]) -> Float[np.ndarray, "pictures features"]:
    """The embeddings at length 1, in float64.

    Raises:
        UserError: there is none, or one is not finite or is zero.
    """
    if not len(embeddings):
        raise UserError("there are no pictures to compare with their captions")
    check_finite(embeddings)
    exact = embeddings.astype(np.float64)
    lengths = np.linalg.norm(exact, axis=1, keepdims=True)
    if not lengths.all():
        raise UserError(
            f"{int(np.sum(lengths == 0))} of {len(embeddings)} embeddings are zero and have no direction: look at the "
            "network's weights"
        )
    return exact / lengths


def r_precision(
    pictures: Float[np.ndarray, "pictures features"],
    captions: Float[np.ndarray, "pictures features"],
    texts: Sequence[str] | None = None,
    candidates: int = CANDIDATES,
    seed: int = 0,
) -> RPrecision:
    """Measures equation (3): each picture chooses among its own caption and others drawn without replacement.

    Args:
        pictures: their embeddings, of any length.
        captions: the embeddings of their captions, row by row.
        texts: the captions, so that a picture need not choose between two that are equal, of which both would be
            right and neither counts; without them all are taken to differ.
        candidates: R.
        seed: of the drawing.

    Raises:
        UserError: no picture has another caption than its own, or an embedding is not finite or is zero.
    """
    ours, theirs = unit(pictures), unit(captions)
    count = len(ours)
    _, group = np.unique(np.arange(count) if texts is None else np.asarray(texts), return_inverse=True)
    most_equal = int(np.bincount(group).max())
    candidates = min(candidates, count - most_equal + 1)
    if candidates < 2:
        raise UserError(
            f"R-precision needs captions that differ, and {most_equal} of {count} are the same: give others"
        )
    right = 0
    for picture, others in enumerate(draw_others(group, candidates - 1, np.random.default_rng(seed))):
        own = ours[picture] @ theirs[picture]
        right += int(np.all(theirs[others] @ ours[picture] < own - ROUNDING))
    precision = right / count
    error = math.sqrt(precision * (1.0 - precision) / count)
    return RPrecision(precision, error, 1.0 / candidates, candidates, count)


def draw_others(
    group: Int[np.ndarray, " pictures"], count: int, generator: np.random.Generator
) -> list[Int[np.ndarray, " others"]]:
    """For each picture so many others, of other groups than its own."""
    # Sorted by group, a picture's own group is one run, and places behind it are moved by its length.
    order = np.argsort(group, kind="stable")
    sizes = np.bincount(group)
    starts = np.cumsum(sizes) - sizes
    drawn = []
    for own in group:
        places = generator.choice(len(group) - sizes[own], count, replace=False, shuffle=False)
        drawn.append(order[np.where(places >= starts[own], places + sizes[own], places)])
    return drawn
