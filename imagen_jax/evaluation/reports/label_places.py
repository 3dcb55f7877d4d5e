"""Places the labels of points so that they cover neither each other nor the points.

    a label's possible boxes around its point -> what each would cover -> the box that covers least, label after label

All units are pixels, with y upwards. The result depends only on the arguments, including the order of the points.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

DIRECTIONS = ((1, 1), (-1, 1), (1, -1), (-1, -1), (1, 0), (-1, 0), (0, 1), (0, -1))
DISTANCES = (1.0, 2.0, 3.5, 5.5)
"""The possible distances of a label from its point, in gaps."""

COVERS_LABEL, COVERS_POINT, LEAVES_SHEET, COVERS_LINE, FARTHER = 100.0, 60.0, 200.0, 6.0, 1.0
"""The cost of each. Crossing a line is cheap, so that labels do not move far away to avoid it."""


class Box(NamedTuple):
    """An axis-aligned rectangle."""

    left: float
    bottom: float
    right: float
    top: float

    def overlaps(self, other: "Box") -> bool:
        """Returns whether two rectangles have an area in common."""
        apart = self.right <= other.left or other.right <= self.left
        return not (apart or self.top <= other.bottom or other.top <= self.bottom)

    def wider(self, margin: float) -> "Box":
        """Returns the rectangle with a margin on its left and right, which keeps the letters of two labels apart."""
        return self._replace(left=self.left - margin, right=self.right + margin)

    def holds(self, other: "Box") -> bool:
        """Returns whether another rectangle is inside."""
        beside = other.left < self.left or other.right > self.right
        return not (beside or other.bottom < self.bottom or other.top > self.top)

    def is_crossed_by(self, start: tuple[float, float], end: tuple[float, float]) -> bool:
        """Returns whether a line segment crosses the rectangle, by Liang-Barsky clipping."""
        entry, leave = 0.0, 1.0
        for axis, (low, high) in enumerate(((self.left, self.right), (self.bottom, self.top))):
            step = end[axis] - start[axis]
            if step == 0:
                if not low < start[axis] < high:
                    return False
                continue
            one, two = sorted(((low - start[axis]) / step, (high - start[axis]) / step))
            entry, leave = max(entry, one), min(leave, two)
        return bool(entry < leave)


def place_labels(
    points: Sequence[tuple[float, float]],
    sizes: Sequence[tuple[float, float]],
    lines: Sequence[Sequence[tuple[float, float]]],
    sheet: Box,
    gap: float,
) -> list[Box]:
    """Chooses a box for each label.

    Args:
        points: the points of the labels.
        sizes: the width and height of each label.
        lines: the vertices of each plotted line; labels avoid crossing them.
        sheet: the area for labels.
        gap: the min distance of a label from its point; also the side of the square that represents the point.

    Returns:
        A box for each label, in order.
    """
    dots = [Box(x - gap / 2, y - gap / 2, x + gap / 2, y + gap / 2) for x, y in points]
    segments = [segment for line in lines for segment in pairwise(line)]
    placed: list[Box] = []

    def cost(box: Box) -> float:
        return (
            COVERS_LABEL * sum(box.overlaps(other.wider(gap / 4)) for other in placed)
            + COVERS_POINT * sum(box.overlaps(dot) for dot in dots)
            + LEAVES_SHEET * (not sheet.holds(box))
            + COVERS_LINE * sum(box.is_crossed_by(start, end) for start, end in segments)
        )

    for point, size in zip(points, sizes, strict=True):
        lowest, best = float("inf"), None
        for distance in DISTANCES:
            if lowest <= FARTHER * distance:
                break
            for box in (beside(point, size, way, distance * gap) for way in DIRECTIONS):
                total = cost(box) + FARTHER * distance
                if total < lowest:
                    lowest, best = total, box
        assert best is not None
        placed.append(best)
    return placed


def beside(point: tuple[float, float], size: tuple[float, float], way: tuple[int, int], distance: float) -> Box:
    """Returns the box of a size at a distance from a point, in one of ``DIRECTIONS``."""
    slanted = 0.7 if way[0] and way[1] else 1.0
    # A direction of -1 puts the box's right or upper side at the point, 1 its left or lower side, and 0 its centre.
    left = point[0] + way[0] * distance * slanted + (way[0] - 1) / 2 * size[0]
    bottom = point[1] + way[1] * distance * slanted + (way[1] - 1) / 2 * size[1]
    return Box(left, bottom, left + size[0], bottom + size[1])
