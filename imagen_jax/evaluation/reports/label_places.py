"""Where the labels of points go, so that they hide neither each other nor the points.

    a label's places around its point -> what each would cover -> the one that covers least, label after label

All in pixels, y upwards. The result depends on the order of the points and on nothing else.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

DIRECTIONS = ((1, 1), (-1, 1), (1, -1), (-1, -1), (1, 0), (-1, 0), (0, 1), (0, -1))
DISTANCES = (1.0, 2.0, 3.5, 5.5)
"""How far a label may be from its point, in gaps."""

COVERS_LABEL, COVERS_POINT, LEAVES_SHEET, COVERS_LINE, FARTHER = 100.0, 60.0, 200.0, 6.0, 1.0
"""What each costs. A line may be crossed where else a label would be far away."""


class Box(NamedTuple):
    """A rectangle with upright sides."""

    left: float
    bottom: float
    right: float
    top: float

    def overlaps(self, other: "Box") -> bool:
        """Whether two rectangles have an area in common."""
        apart = self.right <= other.left or other.right <= self.left
        return not (apart or self.top <= other.bottom or other.top <= self.bottom)

    def wider(self, margin: float) -> "Box":
        """The rectangle with a margin to its left and right, where letters of two labels would run together."""
        return self._replace(left=self.left - margin, right=self.right + margin)

    def holds(self, other: "Box") -> bool:
        """Whether another rectangle lies within."""
        beside = other.left < self.left or other.right > self.right
        return not (beside or other.bottom < self.bottom or other.top > self.top)

    def is_crossed_by(self, start: tuple[float, float], end: tuple[float, float]) -> bool:
        """Whether a straight line goes through; clipped as Liang and Barsky do."""
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
    """Chooses a place for each label.

    Args:
        points: that the labels are of.
        sizes: width and height of each label.
        lines: the corners of each line drawn, which labels rather don't cross.
        sheet: where labels may be.
        gap: how far a label keeps from its point; half as much is the point's own size.

    Returns:
        A rectangle for each label, in order.
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
        least, best = float("inf"), None
        for distance in DISTANCES:
            if least <= FARTHER * distance:
                break
            for box in (beside(point, size, way, distance * gap) for way in DIRECTIONS):
                total = cost(box) + FARTHER * distance
                if total < least:
                    least, best = total, box
        assert best is not None
        placed.append(best)
    return placed


def beside(point: tuple[float, float], size: tuple[float, float], way: tuple[int, int], distance: float) -> Box:
    """The rectangle of a size that lies at a distance from a point, in one of ``DIRECTIONS``."""
    slanted = 0.7 if way[0] and way[1] else 1.0
    # Where the rectangle's own middle is left, middle or right of the point, so is the side nearest to it.
    left = point[0] + way[0] * distance * slanted + (way[0] - 1) / 2 * size[0]
    bottom = point[1] + way[1] * distance * slanted + (way[1] - 1) / 2 * size[1]
    return Box(left, bottom, left + size[0], bottom + size[1])
