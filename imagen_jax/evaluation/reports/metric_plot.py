"""Plots the metrics of a run against its steps, one panel for each kind of metric."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from imagen_jax.storage.paths import Path, writing

PANELS: dict[str, dict[str, str]] = {
    "Fréchet distance (lower is better)": {"frechet_distance": ""},
    "caption recall@10 (higher is better)": {"caption_recall_at_10": "", "chance": "chance"},
    "cosine with the held-out image": {
        "prior_cosine": "prior",
        "text_vector_cosine": "caption's embedding",
        "ridge_cosine": "ridge regression",
    },
    "recall@10 of the held-out image": {
        "prior_recall_at_10": "prior",
        "text_vector_recall_at_10": "caption's embedding",
        "ridge_recall_at_10": "ridge regression",
        "chance_at_10": "chance",
    },
}
"""The panels by title: their metrics with the labels of their lines. The first is what the others compare with.

Other metrics are not plotted, and a panel is left out if its first metric is missing.
"""


def plot_metrics(lines: Sequence[Mapping[str, int | float]], path: Path, subtitle: str) -> None:
    """Plots each panel's metrics against the step.

    Args:
        lines: the metrics of each ``step``; at least one line.
        path: the PNG file.
        subtitle: a description of the measurement.
    """
    shown = {title: metrics for title, metrics in PANELS.items() if next(iter(metrics)) in lines[-1]}
    figure = Figure(figsize=(5 * len(shown), 3.6), layout="constrained")
    axes = figure.subplots(1, len(shown), squeeze=False)
    for axis, (title, metrics) in zip(axes[0], shown.items(), strict=True):
        draw_panel(axis, lines, metrics)
        axis.set(title=title, xlabel="step")
        axis.xaxis.set_major_locator(MaxNLocator(nbins=8, steps=[1, 2, 5, 10], integer=True))
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(visible=True, alpha=0.3)
    figure.suptitle(subtitle, fontsize=9, color="dimgrey")
    with writing(path) as file:
        figure.savefig(file, dpi=120)


def draw_panel(axis: Axes, lines: Sequence[Mapping[str, Any]], metrics: Mapping[str, str]) -> None:
    """Draws a panel's metrics against the step; values that are not finite numbers are left out.

    Args:
        axis: where to draw.
        lines: the metrics of each ``step``.
        metrics: the label of each metric, the first of which is the main one.
    """
    for number, (name, label) in enumerate(metrics.items()):
        points = [(line["step"], line[name]) for line in lines if isinstance(line.get(name), int | float)]
        steps, values = np.asarray(points, np.float64).reshape(-1, 2).T
        if not np.isfinite(values).any():
            continue
        style = CHANCE if label == "chance" else {"marker": "o", "markersize": 4, "alpha": 0.6 if number else 1.0}
        axis.plot(steps, values, label=label, **style)
    axis.set_ylim(bottom=min(0.0, axis.get_ylim()[0]))
    if len(metrics) > 1 and axis.lines:
        axis.legend(frameon=False)


CHANCE: dict[str, Any] = {"color": "grey", "linestyle": ":"}
