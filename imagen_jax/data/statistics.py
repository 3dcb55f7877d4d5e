"""What a data set is like: histograms that can be added up, so that each part counts its own.

side      pixels of the shorter side, by powers of two and their halves
aspect    width by height, by tenths of an octave
words     of a caption
captions  of an image
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

Histograms = dict[str, Counter[str]]
"""How many there are of each value, by name; values as text, since JSON has no other keys."""

NAMES = ("side", "aspect", "words", "captions")


def empty_histograms() -> Histograms:
    """Nothing counted yet."""
    return {name: Counter() for name in NAMES}


def count_record(histograms: Histograms, width: int, height: int, captions: Sequence[str]) -> None:
    """Adds one image with its captions; width and height as it came."""
    histograms["side"][str(lower_edge(min(width, height)))] += 1
    histograms["aspect"][f"{2 ** (round(10 * math.log2(width / height)) / 10):.2f}"] += 1
    histograms["captions"][str(len(captions))] += 1
    for caption in captions:
        histograms["words"][str(len(caption.split()))] += 1


def lower_edge(side: int) -> int:
    """The largest power of two, or one and a half times such, that is not greater."""
    power = 2 ** int(math.log2(side))
    return power * 3 // 2 if side * 2 >= power * 3 and power > 1 else power


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
