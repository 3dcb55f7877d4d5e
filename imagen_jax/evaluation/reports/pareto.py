"""Plots one measure against another for several values of a setting, like the curves in the Imagen paper.

    points (label, x, y, group) -> a line of each group, a label at each point, the best trade-offs filled -> PNG, SVG

In the paper, x is the CLIP score (higher is better) and y is FID (lower is better). A point is a guidance weight, and a
group is a model or a level of augmentation (Saharia et al. 2022, figure 4 and those of the appendix).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np

from imagen_jax.errors import UserError

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from imagen_jax.evaluation.reports.label_places import Box, place_labels
from imagen_jax.storage.paths import Path, writing

MARKERS = "osD^vP*X"
COLOURS = ("#0b62a8", "#b35900", "#1b7f3b", "#b3202a", "#6a3fa0", "#7a4a2b", "#b0478f", "#4d4d4d")
"""These are dark enough for small letters on white."""

LABEL_SIZE = 8
GAP = 7.0
"""The gap between a point and its label, in points of 1/72 inch."""

MAX_LABEL_DISTANCE = 1.6
"""In gaps. If the label is farther away, a thin line connects it to its point."""


@dataclass(frozen=True)
class ParetoPoint:
    """One measurement.

    Attributes:
        label: the text beside the point, such as the guidance weight.
        x: the first measure; higher is better.
        y: the second measure; lower is better.
        group: the name of the line through the point.
    """

    label: str
    x: float
    y: float
    group: str = ""


def pareto_optimal(points: Sequence[ParetoPoint]) -> list[bool]:
    """Returns for each point whether no other point is at least as good in both measures and better in one."""

    def beats(other: ParetoPoint, point: ParetoPoint) -> bool:
        at_least = other.x >= point.x and other.y <= point.y
        return at_least and (other.x > point.x or other.y < point.y)

    return [not any(beats(other, point) for other in points) for point in points]


def plot_pareto(
    points: Sequence[ParetoPoint], path_without_suffix: Path, x_label: str, y_label: str
) -> tuple[Path, Path]:
    """Plots the points as ``.png`` and ``.svg``. Equal points give equal files.

    Args:
        points: the points. Those of a group are connected in the given order.
        path_without_suffix: the path of both files without suffix, such as ``OUT/clip_against_fid``.
        x_label: the name of the measure on the x-axis; higher is better.
        y_label: the name of the measure on the y-axis; lower is better.

    Returns:
        The two files.

    Raises:
        UserError: there are no points, one is not finite, or a file can't be written.
    """
    if not points:
        raise UserError("there are no points to plot: measure at least one setting")
    for point in points:
        if not (math.isfinite(point.x) and math.isfinite(point.y)):
            name = " ".join(filter(None, [point.group, point.label]))
            raise UserError(f"the point {name!r} is at {point.x}, {point.y}: measure it again, or leave it out")
    # Not with_suffix, which would replace the ".5" of "guidance_1.5".
    files = tuple(path_without_suffix.parent / f"{path_without_suffix.name}.{form}" for form in ("png", "svg"))
    png, svg = files
    # Without the salt, two SVG files of the same plot differ in their random ids.
    with plt.rc_context({"svg.hashsalt": "imagen_jax", "svg.fonttype": "path"}):
        figure, axis = plt.subplots(figsize=(8, 6), dpi=150, layout="constrained")
        try:
            draw_groups(axis, points)
            axis.set_xlabel(f"{x_label} (higher is better)", parse_math=False)
            axis.set_ylabel(f"{y_label} (lower is better)", parse_math=False)
            write_labels(figure, axis, points)
            with writing(png) as file:
                figure.savefig(file, metadata={"Software": None})
            with writing(svg) as file:
                figure.savefig(file, metadata={"Date": None, "Creator": None})
        except OSError as error:
            raise UserError(
                f"{path_without_suffix}.png and .svg can't be written ({error.strerror or error}): make room or choose "
                "another folder"
            ) from error
        finally:
            plt.close(figure)
    return png, svg


def draw_groups(axis: Axes, points: Sequence[ParetoPoint]) -> None:
    """Plots each group's line with hollow points, and fills the points that are Pareto-optimal among all groups."""
    best = pareto_optimal(points)
    groups = list(dict.fromkeys(point.group for point in points))
    for number, group in enumerate(groups):
        members = [point for point in points if point.group == group]
        colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
        axis.plot(
            [point.x for point in members],
            [point.y for point in members],
            color=colour,
            marker=marker,
            markersize=5,
            markerfacecolor="white",
            linewidth=1.2,
            label=group or None,
        )
        filled = [point for point, is_best in zip(points, best, strict=True) if is_best and point.group == group]
        axis.plot(
            [point.x for point in filled],
            [point.y for point in filled],
            color=colour,
            marker=marker,
            markersize=8,
            markeredgecolor="black",
            linestyle="none",
            zorder=3,
        )
    axis.plot([], [], "o", color="grey", markersize=8, markeredgecolor="black", label="Pareto-optimal")
    axis.grid(visible=True, alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
    axis.margins(0.1)
    for text in axis.legend(frameon=False).get_texts():
        text.set_parse_math(False)


def write_labels(figure: Figure, axis: Axes, points: Sequence[ParetoPoint]) -> None:
    """Writes each point's label in the colour of its line, at the position where it covers least."""
    groups = list(dict.fromkeys(point.group for point in points))
    colours = [COLOURS[groups.index(point.group) % len(COLOURS)] for point in points]
    texts = [
        axis.text(point.x, point.y, point.label, color=colour, fontsize=LABEL_SIZE, parse_math=False)
        for point, colour in zip(points, colours, strict=True)
    ]
    # Positions in pixels are known only after the layout, which must not change afterwards.
    canvas = figure.canvas
    assert isinstance(canvas, FigureCanvasAgg)
    canvas.draw()
    figure.set_layout_engine("none")
    axis.autoscale(False)
    extents = [text.get_window_extent(canvas.get_renderer()) for text in texts]
    positions = [to_pair(axis.transData.transform((point.x, point.y))) for point in points]
    lines = [
        [position for position, point in zip(positions, points, strict=True) if point.group == group]
        for group in groups
    ]
    sheet = axis.get_window_extent(canvas.get_renderer())
    gap = GAP * figure.dpi / 72
    boxes = place_labels(
        positions,
        [(extent.width, extent.height) for extent in extents],
        lines,
        Box(sheet.x0, sheet.y0, sheet.x1, sheet.y1),
        gap,
    )
    to_data = axis.transData.inverted().transform
    for text, extent, box, position, colour in zip(texts, extents, boxes, positions, colours, strict=True):
        # The extent of a text has an offset from the text's position.
        origin = (box.left - (extent.x0 - position[0]), box.bottom - (extent.y0 - position[1]))
        text.set_position(to_pair(to_data(origin)))
        end = (min(max(position[0], box.left), box.right), min(max(position[1], box.bottom), box.top))
        if math.dist(position, end) > MAX_LABEL_DISTANCE * gap:
            (start_x, start_y), (end_x, end_y) = to_data(position), to_data(end)
            axis.plot([start_x, end_x], [start_y, end_y], color=colour, linewidth=0.5, alpha=0.7, zorder=1)


def to_pair(values: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """Converts the two numbers of an array to a tuple of floats."""
    return float(values[0]), float(values[1])
