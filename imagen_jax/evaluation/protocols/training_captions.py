"""Measures whether images follow their captions, by caption recall on training captions.

Each sampled image should be nearest to its caption's own image among all reference images, see
``evaluation.metrics.caption_recall``. The protocol works for cascades on any data, and the quickstart uses it.
"""

from typing import Any

import numpy as np

from imagen_jax.array_types import HostPixels
from imagen_jax.cascade.image_files import labelled_grid, save_png
from imagen_jax.evaluation.metrics.caption_recall import CaptionRecall, measure_caption_recall
from imagen_jax.evaluation.protocols.evaluation import Measured, Request
from imagen_jax.evaluation.protocols.measures import Headline
from imagen_jax.storage.paths import Path

SHOWN = 16
"""Max number of sampled images in ``recall.png``, each beside its caption's own image."""

MIN_TELLING = 100
"""Number of sampled images below which a warning says that the caption recall says little."""

FEW = "a caption recall of only "
"""Start of that warning."""


def measure_recalls(request: Request, measured: Measured) -> dict[str, CaptionRecall]:
    """Measures caption recall in each network's features.

    Raises:
        UserError: there is only one sampled image.
    """
    assert request.choice.images is not None
    own = np.asarray(request.choice.images)
    return {
        name: measure_caption_recall(ours.pooled, own, theirs.pooled, seed=request.seed)
        for name, (ours, theirs) in measured.features.items()
    }


def describe_recalls(recalls: dict[str, CaptionRecall], first: str) -> dict[str, Any]:
    """Returns the report's sections about caption recall; ``first`` names the headline's network."""
    headline = recalls[first]
    return {
        f"caption_recall_at_{headline.k}": headline.recall,
        f"caption_recall_at_{headline.k}_shuffled": headline.shuffled,
        "chance": headline.chance,
        "chance_upper_bound": headline.chance_upper_bound,
        "features": first,
        "recall": {name: recall.as_dict() for name, recall in recalls.items()},
    }


def headline_of(recall: CaptionRecall, network: str) -> Headline:
    """Returns the headline number of the report."""
    note = f"{network}; with captions shuffled {recall.shuffled:.3f}, by chance {recall.chance:.3f}"
    return Headline(f"caption recall@{recall.k}", recall.recall, "higher", None, note, recall.chance)


def warn_of_few(recall: CaptionRecall) -> list[str]:
    """Returns a warning if the caption recall is that of few images; [] otherwise."""
    if recall.samples >= MIN_TELLING:
        return []
    return [f"{FEW}{recall.samples} images says little: guessing may reach {recall.chance_upper_bound:.2g}"]


def show_pairs(request: Request, measured: Measured, resolution: int, path: Path) -> None:
    """Writes a grid of the first ``SHOWN`` sampled images, each beside its caption's own image."""
    assert request.choice.images is not None
    images: list[HostPixels] = []
    labels: list[str] = []
    for index, number in enumerate(request.choice.images[:SHOWN]):
        images += [measured.sampled.image(index), request.reference.image(number, resolution)]
        labels += [request.choice.captions[index], "original"]
    save_png(path, labelled_grid(np.stack(images), labels, 8), {})
