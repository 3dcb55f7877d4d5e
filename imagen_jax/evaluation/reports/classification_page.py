"""Writes the report of a classification: JSON, the picture of the confusions, and a page with examples.

report, images -> OUT/report.json, OUT/confusion.png, OUT/report.html
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from imagen_jax.array_types import HostPixels
from imagen_jax.evaluation.protocols.classification import Classification, ClassifyRequest
from imagen_jax.evaluation.protocols.image_embeddings import read_pixels
from imagen_jax.evaluation.reports.confusion_plot import plot_confusion
from imagen_jax.evaluation.reports.html_pages import data_uri, encode_thumbnail, write_page
from imagen_jax.evaluation.reports.html_report import all_sections
from imagen_jax.evaluation.reports.report import write_report
from imagen_jax.storage.paths import Path

REPORT, PAGE, CONFUSION = "report.json", "report.html", "confusion.png"

SHOWN = 12
"""Max number of images on the page that are classified correctly, and of those that are not."""

SIDE = 160
MAX_BYTES = 12_000
"""Max length of the longer side of an image on the page in pixels, and max size of its file."""

KEYS_WITH_LAYOUT = ("title", "headline", "warnings", "accuracy", "prompt_results", "probe", "classes", "confusion")


class Example(NamedTuple):
    """An image on the page.

    Attributes:
        address: the image as a data URI.
        caption: its first caption, or else its key.
        own: its class.
        predicted: the class that it is classified as.
        own_probability: probability of its class.
        predicted_probability: probability of the class that it is classified as.
    """

    address: str
    caption: str
    own: str
    predicted: str
    own_probability: float
    predicted_probability: float


def write_classification(out: Path, report: Mapping[str, Any], request: ClassifyRequest, found: Classification) -> None:
    """Writes the three files of a classification.

    Args:
        out: folder of the files.
        report: the result of ``classification.make_report``.
        request: what was classified, and how.
        found: the results.

    Raises:
        UserError: a file can't be written, or an image can't be read.
    """
    write_report(out / REPORT, report)
    plot_confusion(found.accuracy.confusion, found.names, out / CONFUSION)
    labels = request.tested.labels[request.tested.numbers]
    is_right = found.predicted == labels
    values = {
        "title": report["title"],
        "subtitle": f"{report['clip']['network']} on {request.tested.reference.name}",
        "cards": list_cards(report, found),
        "warnings": report["warnings"],
        "prompt_results": found.results,
        "probe": found.probe_accuracy,
        "confusion": data_uri((out / CONFUSION).read_bytes(), CONFUSION),
        "classes": found.accuracy.classes,
        "examples": {
            "Classified correctly": make_examples(request, found, choose(is_right, request.seed)),
            "Classified wrongly": make_examples(request, found, choose(~is_right, request.seed)),
        },
        "counts": {"Classified correctly": int(is_right.sum()), "Classified wrongly": int((~is_right).sum())},
        "sections": all_sections({key: value for key, value in report.items() if key not in KEYS_WITH_LAYOUT}),
    }
    write_page(out / PAGE, "classification.html.jinja", values)


def list_cards(report: Mapping[str, Any], found: Classification) -> list[dict[str, str]]:
    """Returns the numbers at the top of the page: the headline, and what needs no CLIP."""
    cards = [(one["name"], one["value"], f"± {one['uncertainty']:.3f}", one["note"]) for one in report["headline"]]
    accuracy = found.accuracy
    cards += [
        ("chance", accuracy.chance, "", f"one of {len(found.names)} classes at random"),
        ("most frequent class", accuracy.majority, "", f"always {accuracy.majority_class}"),
    ]
    return [
        {"name": name, "value": f"{value:.3f}", "uncertainty": uncertainty, "note": note}
        for name, value, uncertainty, note in cards
    ]


def choose(is_shown: np.ndarray, seed: int) -> Int[np.ndarray, " shown"]:
    """Returns the indices of at most ``SHOWN`` marked images, chosen at random by the seed, in order."""
    marked = np.flatnonzero(is_shown)
    return np.sort(np.random.default_rng(seed).permutation(marked)[:SHOWN])


def make_examples(
    request: ClassifyRequest, found: Classification, indices: Iterable[int] | Int[np.ndarray, " shown"]
) -> list[Example]:
    """Returns examples for the page.

    Args:
        request: what was classified.
        found: the results.
        indices: indices of the images among the labelled ones.

    Raises:
        UserError: an image can't be read.
    """
    tested = request.tested
    examples = []
    for index in map(int, indices):
        number = int(tested.numbers[index])
        own, predicted = int(tested.labels[number]), int(found.predicted[index])
        chances = found.probabilities[index]
        examples.append(
            Example(
                address=show(read_pixels(tested.reference, number)),
                caption=caption_of(tested.reference.captions[number], number),
                own=found.names[own],
                predicted=found.names[predicted],
                own_probability=float(chances[own]),
                predicted_probability=float(chances[predicted]),
            )
        )
    return examples


def show(pixels: HostPixels) -> str:
    """Returns a small version of an image as a data URI."""
    return data_uri(encode_thumbnail(pixels, SIDE, MAX_BYTES), "an example")


def caption_of(captions: Sequence[str], number: int) -> str:
    """Returns the first caption of an image, or else its number in words."""
    return captions[0] if captions else f"image {number}"
