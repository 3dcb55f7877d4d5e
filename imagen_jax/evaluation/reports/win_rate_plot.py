"""Plots win rates."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from imagen_jax.errors import UserError
from imagen_jax.evaluation.metrics.win_rates import INDIFFERENT, QUESTIONS, WinRate
from imagen_jax.storage.paths import Path, writing

COLOURS = {"a": "#7fa8d1", INDIFFERENT: "#e4e4e4", "b": "#e0a58c"}


def plot_win_rates(measured: Sequence[WinRate], names: tuple[str, str], paths: Sequence[Path]) -> None:
    """Plots a panel for each question, with a bar of shares and the win rate of a with its interval for each category.

    Args:
        measured: the win rates to plot, at least one.
        names: the names of a and b.
        paths: the files, PNG or SVG by their suffixes.

    Raises:
        UserError: a file can't be written.
    """
    panels = {question: [one for one in measured if one.question == question] for question in QUESTIONS}
    rows = max(map(len, panels.values()))
    size = (12, 1.9 + 0.42 * rows)
    # With a fixed salt, equal ratings give equal files.
    with matplotlib.rc_context({"svg.hashsalt": "win rates"}):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)
        try:
            for axis, (question, rates) in zip(axes[0], panels.items(), strict=True):
                plot_question(axis, rates)
                axis.set_title(QUESTIONS[question], fontsize=11)
            axes[0][0].invert_yaxis()
            figure.legend(*legend_of(axes[0], names), loc="outside lower center", ncols=4, frameon=False)
            for path in paths:
                with writing(path) as file:
                    figure.savefig(file, dpi=120, metadata={"Date": None} if path.suffix == ".svg" else None)
        except OSError as error:
            raise UserError(f"a plot can't be written ({error}): make room or choose another folder") from error


def plot_question(axis: Axes, rates: Sequence[WinRate]) -> None:
    """Plots the win rates of one question."""
    positions = np.arange(len(rates))
    starts = np.zeros(len(rates))
    for answer, colour in COLOURS.items():
        shares = np.asarray([one.answers[answer] / one.total for one in rates])
        axis.barh(positions, shares, left=starts, height=0.72, color=colour, label=answer)
        starts += shares
    centres = np.asarray([one.rate for one in rates])
    ends = np.abs(np.asarray([[one.low, one.high] for one in rates]).reshape(-1, 2).T - centres)
    axis.errorbar(centres, positions, xerr=ends, fmt="o", color="black", markersize=5, capsize=3, label="rate")
    axis.axvline(0.5, color="black", linewidth=0.8, linestyle="--")
    axis.set(xlim=(0, 1), xlabel="share of answers")
    axis.xaxis.set_major_formatter(PercentFormatter(1.0))
    # An unescaped dollar would start a formula.
    axis.set_yticks(positions, [f"{one.category} ({one.total})".replace("$", r"\$") for one in rates])
    axis.tick_params(axis="y", length=0)
    axis.spines[["top", "right", "left"]].set_visible(False)


def legend_of(axes: Sequence[Axes] | np.ndarray, names: tuple[str, str]) -> tuple[list[Any], list[str]]:
    """Returns the handles and labels of the legend: the colours and the dot, each once."""
    found: Mapping[str, Any] = {
        label: handle for axis in axes for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    a, b = (name.replace("$", r"\$") for name in names)
    words = {"a": f"a: {a}", INDIFFERENT: INDIFFERENT, "b": f"b: {b}", "rate": "win-rate of a, 95% interval"}
    return [found[label] for label in words], list(words.values())
