"""Plots the losses of one or more runs."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator

from imagen_jax.errors import UserError
from imagen_jax.storage.paths import Path, writing

SMOOTHED_SHARE = 0.05
"""The window of the running mean, as a share of the log lines."""


def plot_losses(runs: Mapping[str, Sequence[Mapping[str, int | float]]], path: Path) -> None:
    """Plots the loss of each run against its step, side by side: logged values faintly, their running mean strongly.

    Args:
        runs: the lines of each run's ``metrics.jsonl``, by the run's name. A run without lines gets an empty panel.
        path: the PNG file.

    Raises:
        UserError: no run has a line, or the plot can't be written.
    """
    if not any(runs.values()):
        raise UserError("there is no loss to plot, as no run has a metrics.jsonl yet: train a stage first")
    figure = Figure(figsize=(6 * len(runs), 4), layout="constrained")
    axes = figure.subplots(1, len(runs), squeeze=False)
    try:
        for axis, (name, lines) in zip(axes[0], runs.items(), strict=True):
            axis.set(title=name, xlabel="step", ylabel="loss (log scale)")
            axis.spines[["top", "right"]].set_visible(False)
            if lines:
                plot_run(axis, lines)
            else:
                axis.text(0.5, 0.5, "no log lines yet", ha="center", transform=axis.transAxes)
        with writing(path) as file:
            figure.savefig(file, dpi=120)
    except OSError as error:
        raise UserError(
            f"{path} can't be written ({error.strerror or error}): make room or choose another folder"
        ) from error


def plot_run(axis: Axes, lines: Sequence[Mapping[str, int | float]]) -> None:
    """Plots one run's loss on a log scale."""
    steps = np.asarray([line["step"] for line in lines])
    losses = np.asarray([line["loss"] for line in lines], np.float64)
    window = max(1, round(SMOOTHED_SHARE * len(losses)))
    # A run with a single log line would be invisible without a marker.
    marker = "." if len(lines) == 1 else None
    axis.plot(steps, losses, color="tab:blue", alpha=0.3, linewidth=0.8, label="each log line")
    smooth = running_mean(losses, window)
    axis.plot(steps, smooth, color="tab:blue", linewidth=2, marker=marker, label=f"mean of {window} lines")
    axis.set_yscale("log", nonpositive="mask")
    # Plain numbers, because 0.02 is easier to read than 2 × 10⁻².
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_formatter("")
    axis.xaxis.set_major_locator(MaxNLocator(nbins=8, steps=[1, 2, 5, 10], integer=True))
    axis.grid(visible=True, alpha=0.3)
    axis.legend(frameon=False)


def running_mean(values: Float[np.ndarray, " lines"], window: int) -> Float[np.ndarray, " lines"]:
    """Returns the mean of the ``window`` values around each, fewer near the ends, without non-finite values."""
    finite = np.isfinite(values)
    # A longer window would have a longer convolution, whose middle is not the lines'.
    ones = np.ones(min(window, max(len(values), 1)))
    total = np.convolve(np.where(finite, values, 0.0), ones, "same")
    count = np.convolve(finite.astype(np.float64), ones, "same")
    return np.where(count > 0.5, total / np.maximum(count, 1.0), np.nan)
