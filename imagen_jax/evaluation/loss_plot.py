"""The loss of one or more runs as a picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np

from imagen_jax.errors import UserError

matplotlib.use("Agg")
import matplotlib.pyplot as plt

SMOOTHED_SHARE = 0.05
"""The window of the running mean, as a share of the run."""


def plot_losses(runs: Mapping[str, Sequence[Mapping[str, float]]], path: Path) -> None:
    """Draws the loss of each run against its step: every logged value faint, their running mean strong.

    Args:
        runs: the lines of ``metrics.jsonl`` of each, by its name.
        path: the PNG.

    Raises:
        UserError: no run has a line.
    """
    if not any(runs.values()):
        raise UserError("there is no loss to plot: the runs have no metrics.jsonl yet")
    figure, axes = plt.subplots(1, len(runs), figsize=(6 * len(runs), 4), squeeze=False, layout="constrained")
    for axis, (name, lines) in zip(axes[0], runs.items(), strict=True):
        steps = np.asarray([line["step"] for line in lines])
        losses = np.asarray([line["loss"] for line in lines])
        axis.plot(steps, losses, color="tab:blue", alpha=0.25, linewidth=0.8, label="each log line")
        window = max(1, round(SMOOTHED_SHARE * len(losses)))
        smooth = np.convolve(losses, np.ones(window) / window, "valid")
        axis.plot(steps[window - 1 :], smooth, color="tab:blue", linewidth=1.8, label=f"mean of {window}")
        axis.set(title=name, xlabel="step", ylabel="loss", yscale="log")
        axis.grid(visible=True, which="both", alpha=0.3)
        axis.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)
