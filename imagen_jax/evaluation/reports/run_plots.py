"""Plots the log of a training run as SVG images, for the run's page.

lines of metrics.jsonl, lines of evaluations.jsonl -> figures: loss, loss by noise level, learning rate, speed, ...

A figure whose values no line has, as in runs of older versions, is left out.
"""

import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from imagen_jax.evaluation.reports.loss_plot import SMOOTHED_SHARE, running_mean
from imagen_jax.evaluation.reports.metric_plot import PANELS, draw_panel
from imagen_jax.training.monitoring.noise_levels import PREFIX

SIZE = (5.4, 3.3)
"""Width and height in inches: two fit beside each other on a screen, and one stays readable on a phone."""

MAX_POINTS = 1600
"""Max number of points in a curve. Of more lines the min and the max of each group are drawn."""

BLUE, RED = "#1f6fb4", "#b3202a"

Lines = Sequence[Mapping[str, Any]]
Values = Float[np.ndarray, " lines"]
Points = Float[np.ndarray, " points"]


class Figure(NamedTuple):
    """A plot.

    Attributes:
        title: the heading.
        note: what the plot shows, in a sentence.
        image: an SVG file.
    """

    title: str
    note: str
    image: bytes


def plot_run_figures(lines: Lines, incident_steps: Sequence[int], evaluations: Lines) -> list[Figure]:
    """Returns the figures of a run for which there are values.

    Args:
        lines: the lines of ``metrics.jsonl``.
        incident_steps: steps that are marked in the plot of the loss.
        evaluations: the lines of ``evaluations.jsonl``.
    """
    window = smoothing_window(lines)
    mean = f"the strong line is the mean of {window} log lines" if window > 1 else "one point for each log line"
    marks = "; a red line marks an incident" if incident_steps else ""
    candidates = [
        plot_curve("Loss", f"Log scale; {mean}{marks}.", lines, "loss", log=True, marks=incident_steps),
        plot_levels(lines),
        plot_curve("Learning rate", "Of the step of each log line.", lines, "learning_rate", smooth=False),
        plot_curve("Images per second", f"Without checkpoints and previews; {mean}.", lines, "images_per_second"),
        plot_curve("Gradient norm", f"Before clipping, log scale; {mean}.", lines, "gradient_norm", log=True),
        *(plot_evaluation(evaluations, title) for title in PANELS),
    ]
    return [figure for figure in candidates if figure is not None]


def smoothing_window(lines: Lines) -> int:
    """Returns the number of log lines in a running mean."""
    return max(1, round(SMOOTHED_SHARE * len(lines)))


def select_values(lines: Lines, name: str) -> tuple[Values, Values]:
    """Returns the steps of the lines that have a metric, and its values."""
    having = [line for line in lines if isinstance(line.get(name), int | float)]
    steps = np.asarray([line["step"] for line in having], np.float64)
    return steps, np.asarray([line[name] for line in having], np.float64)


def plot_curve(
    title: str,
    note: str,
    lines: Lines,
    name: str,
    *,
    log: bool = False,
    smooth: bool = True,
    marks: Sequence[int] = (),
) -> Figure | None:
    """Plots a metric against the step, with its running mean; None if no line has a finite value of it.

    Args:
        title: the heading.
        note: what the plot shows.
        lines: the lines of ``metrics.jsonl``.
        name: the name of the metric.
        log: whether the axis of the values is logarithmic.
        smooth: whether to plot the running mean too.
        marks: steps that are marked by a vertical line.
    """
    steps, values = select_values(lines, name)
    if not np.isfinite(values).any():
        return None
    window = smoothing_window(lines) if smooth else 1

    def draw(axis: Axes) -> None:
        for step in marks:
            axis.axvline(step, color=RED, linewidth=0.9, alpha=0.6)
        if window > 1:
            axis.plot(*thin(steps, values), color=BLUE, alpha=0.3, linewidth=0.8)
        shown = thin(steps, running_mean(values, window))
        axis.plot(*shown, color=BLUE, linewidth=1.8, marker="." if len(values) == 1 else None)
        if log and (values[np.isfinite(values)] > 0).any():
            use_log_scale(axis)

    return Figure(title, note, draw_svg(draw))


def plot_levels(lines: Lines) -> Figure | None:
    """Plots the running mean of the loss of each noise level; None if the lines do not have these losses."""
    names = sorted({name for line in lines for name in line if name.startswith(PREFIX)}, key=level_order)
    curves = [(name, *select_values(lines, name)) for name in names]
    curves = [curve for curve in curves if (curve[2] > 0).any()]
    if not curves:
        return None
    window = smoothing_window(lines)
    colours = matplotlib.colormaps["viridis"](np.linspace(0.0, 0.92, len(curves)))

    def draw(axis: Axes) -> None:
        for (name, steps, values), colour in zip(curves, colours, strict=True):
            marker = "." if len(values) == 1 else None
            shown = thin(steps, running_mean(values, window))
            axis.plot(*shown, color=colour, linewidth=1.5, marker=marker, label=level_label(name))
        use_log_scale(axis)
        options: Any = {"loc": "upper left", "frameon": False, "fontsize": 8, "title_fontsize": 8}
        axis.legend(title="log-SNR", reverse=True, bbox_to_anchor=(1.0, 1.05), **options)

    note = "Log scale; mean loss of the examples in each range of log-SNR. Low log-SNRs are noisy, high ones clean."
    return Figure("Loss by noise level", note, draw_svg(draw, right=0.76))


def level_order(name: str) -> tuple[float, bool]:
    """Returns the position of a noise level's name, from noisy to clean."""
    first = re.search(r"-?\d+(\.\d+)?", name)
    return (float(first[0]) if first else 0.0), "below" not in name


def level_label(name: str) -> str:
    """Returns the label of a noise level: ``below -6``, ``-6 to -4``, ``above 6``, with real minus signs."""
    return name.removeprefix(PREFIX).replace("_", " ").replace("-", "−")


def plot_evaluation(evaluations: Lines, title: str) -> Figure | None:
    """Plots a panel of the evaluations; None if none has its main metric."""
    metrics = PANELS[title]
    _, values = select_values(evaluations, next(iter(metrics)))
    if not np.isfinite(values).any():
        return None
    image = draw_svg(lambda axis: draw_panel(axis, evaluations, metrics))
    return Figure(title[0].upper() + title[1:], "Of the samples of the evaluations during training.", image)


def thin(steps: Values, values: Values) -> tuple[Points, Points]:
    """Returns at most ``MAX_POINTS`` points of a curve: of longer ones, the min and the max of each group."""
    if len(values) <= MAX_POINTS:
        return steps, values
    groups = np.array_split(np.arange(len(values)), MAX_POINTS // 2)
    comparable = np.where(np.isfinite(values), values, np.inf)
    lowest = [group[np.argmin(comparable[group])] for group in groups]
    comparable = np.where(np.isfinite(values), values, -np.inf)
    highest = [group[np.argmax(comparable[group])] for group in groups]
    kept = np.unique([*lowest, *highest])
    return steps[kept], values[kept]


def use_log_scale(axis: Axes) -> None:
    """Makes the axis of the values logarithmic, with plain numbers such as 0.02."""
    axis.set_yscale("log", nonpositive="mask")
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_formatter(NullFormatter())


def draw_svg(draw: Callable[[Axes], None], right: float = 0.97) -> bytes:
    """Draws a plot against the step and returns it as SVG. Equal plots give equal files.

    Args:
        draw: function that draws the curves.
        right: right end of the axes, as a fraction of the width. Fixed margins take half the time of a computed layout.
    """
    with matplotlib.rc_context({"svg.hashsalt": "imagen_jax", "svg.fonttype": "path", "path.simplify": True}):
        canvas = Canvas(figsize=SIZE)
        axis = canvas.subplots(gridspec_kw={"left": 0.13, "right": right, "bottom": 0.15, "top": 0.96})
        draw(axis)
        axis.set_xlabel("step")
        axis.xaxis.set_major_locator(MaxNLocator(nbins=7, steps=[1, 2, 5, 10], integer=True))
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(visible=True, alpha=0.3)
        file = io.BytesIO()
        canvas.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    return file.getvalue()
