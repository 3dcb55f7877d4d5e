"""Plots one measure against another for several values of a setting, like the curves in the Imagen paper.

    points (label, x, y, group) -> a line of each group, a shape for each label, the best trade-offs filled -> PNG, SVG

In the paper, x is the CLIP score (higher is better) and y is FID (lower is better). A point is a guidance weight, and a
group is a model or a level of augmentation (Saharia et al. 2022, figure 4 and those of the appendix).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from imagen_jax.errors import UserError
from imagen_jax.storage.paths import Path, writing

MARKERS = "osD^vP*X<>hpd8H"
"""The shapes of the labels. More labels use them again, in the order of the points along a line."""

COLOURS = ("#0b62a8", "#b35900", "#1b7f3b", "#b3202a", "#6a3fa0", "#7a4a2b", "#b0478f", "#4d4d4d")
LINE_STYLES = ("-", "--", "-.", ":")
"""The colours and line styles of the groups. The styles tell groups apart without colours, in print for example."""

ROWS_OF_LEGEND = 25
"""The max number of entries in a column of the legend, which is as tall as the plot."""


@dataclass(frozen=True)
class ParetoPoint:
    """One measurement.

    Attributes:
        label: what the point's shape stands for, such as the guidance weight.
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
    with matplotlib.rc_context({"svg.hashsalt": "imagen_jax", "svg.fonttype": "path"}):
        figure = Figure(figsize=(8, 6), dpi=150, layout="constrained")
        axis = figure.subplots()
        try:
            draw_groups(axis, points)
            axis.set_xlabel(f"{x_label} (higher is better)", parse_math=False)
            axis.set_ylabel(f"{y_label} (lower is better)", parse_math=False)
            with writing(png) as file:
                figure.savefig(file, metadata={"Software": None})
            with writing(svg) as file:
                figure.savefig(file, metadata={"Date": None, "Creator": None})
        except OSError as error:
            raise UserError(
                f"{path_without_suffix}.png and .svg can't be written ({error.strerror or error}): make room or choose "
                "another folder"
            ) from error
    return png, svg


def draw_groups(axis: Axes, points: Sequence[ParetoPoint]) -> None:
    """Plots a line for each group and a hollow shape at each point. Fills the points that are Pareto-optimal.

    A legend beside the plot names the groups and the labels.
    """
    groups = list(dict.fromkeys(point.group for point in points))
    labels = list(dict.fromkeys(point.label for point in points))
    shapes = {label: MARKERS[number % len(MARKERS)] for number, label in enumerate(labels)}
    colours = {group: COLOURS[number % len(COLOURS)] for number, group in enumerate(groups)}
    for number, group in enumerate(groups):
        members = [point for point in points if point.group == group]
        axis.plot(
            [point.x for point in members],
            [point.y for point in members],
            color=colours[group],
            linestyle=LINE_STYLES[number % len(LINE_STYLES)],
            linewidth=1.2,
            label=group or None,
            zorder=1,
        )
    for point, is_best in zip(points, pareto_optimal(points), strict=True):
        colour = colours[point.group]
        axis.plot(
            point.x,
            point.y,
            marker=shapes[point.label],
            markersize=8 if is_best else 6,
            markerfacecolor=colour if is_best else "white",
            markeredgecolor="black" if is_best else colour,
            linestyle="none",
            zorder=3 if is_best else 2,
        )
    for label, shape in shapes.items():
        axis.plot([], [], shape, color="grey", markerfacecolor="white", label=label or None)
    axis.plot([], [], "o", color="grey", markersize=8, markeredgecolor="black", label="Pareto-optimal")
    axis.grid(visible=True, alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
    axis.margins(0.1)
    columns = math.ceil((len(groups) + len(shapes) + 1) / ROWS_OF_LEGEND)
    for text in axis.figure.legend(loc="outside right upper", ncols=columns, frameon=False).get_texts():
        text.set_parse_math(False)
