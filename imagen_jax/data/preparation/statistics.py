"""Statistics of a data set: histograms, counted for each part and added up.

shorter_side     pixels of the source image's shorter side
width_by_height  width divided by height of the source image, to three significant digits
words            words of a caption
captions         captions of an image
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

Histograms = dict[str, Counter[str]]
"""Counts of each value, by the histogram's name; values are text, since JSON allows no other keys."""

NAMES = ("shorter_side", "width_by_height", "words", "captions")


def empty_histograms() -> Histograms:
    """Returns histograms without counts."""
    return {name: Counter() for name in NAMES}


def count_record(histograms: Histograms, width: int, height: int, captions: Sequence[str]) -> None:
    """Counts one image with its captions; width and height are those of the source image."""
    histograms["shorter_side"][str(min(width, height))] += 1
    histograms["width_by_height"][str(float(f"{width / height:.3g}"))] += 1
    histograms["captions"][str(len(captions))] += 1
    for caption in captions:
        histograms["words"][str(len(caption.split()))] += 1


def add_up(parts: Iterable[Mapping[str, Mapping[str, int]]]) -> Histograms:
    """Returns the sums of the histograms of all parts."""
    total = empty_histograms()
    for part in parts:
        for name in NAMES:
            total[name].update(part.get(name, {}))
    return total


def sort_values(histograms: Histograms) -> dict[str, dict[str, int]]:
    """Returns the histograms with their values in ascending order."""
    return {name: dict(sorted(counts.items(), key=lambda item: float(item[0]))) for name, counts in histograms.items()}


def quantile(counts: Mapping[str, int], share: float) -> float | None:
    """Returns the smallest value that a fraction ``share`` of all values does not exceed; None without values."""
    total, seen = sum(counts.values()), 0
    for value, count in sorted(counts.items(), key=lambda item: float(item[0])):
        seen += count
        if seen >= share * total:
            return float(value)
    return None
