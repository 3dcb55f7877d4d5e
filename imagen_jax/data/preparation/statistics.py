"""What a data set is like: histograms that can be added up, so that each part counts its own.

shorter_side     pixels, of the image as it came
width_by_height  likewise, in three digits
words            of a caption
captions         of an image
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

Histograms = dict[str, Counter[str]]
"""How many there are of each value, by name; values as text, since JSON has no other keys."""

NAMES = ("shorter_side", "width_by_height", "words", "captions")


def empty_histograms() -> Histograms:
    """Nothing counted yet."""
    return {name: Counter() for name in NAMES}


def count_record(histograms: Histograms, width: int, height: int, captions: Sequence[str]) -> None:
    """Adds one image with its captions; width and height as it came."""
    histograms["shorter_side"][str(min(width, height))] += 1
    histograms["width_by_height"][str(float(f"{width / height:.3g}"))] += 1
    histograms["captions"][str(len(captions))] += 1
    for caption in captions:
        histograms["words"][str(len(caption.split()))] += 1


def add_up(parts: Iterable[Mapping[str, Mapping[str, int]]]) -> Histograms:
    """The histograms of all parts together."""
    total = empty_histograms()
    for part in parts:
        for name in NAMES:
            total[name].update(part.get(name, {}))
    return total


def sort_values(histograms: Histograms) -> dict[str, dict[str, int]]:
    """The same with the values in order."""
    return {name: dict(sorted(counts.items(), key=lambda item: float(item[0]))) for name, counts in histograms.items()}


def quantile(counts: Mapping[str, int], share: float) -> float | None:
    """The least value that a share of all does not exceed; None where there are none."""
    total, seen = sum(counts.values()), 0
    for value, count in sorted(counts.items(), key=lambda item: float(item[0])):
        seen += count
        if seen >= share * total:
            return float(value)
    return None
