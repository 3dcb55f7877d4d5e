"""Plots the metrics of a run against its steps, with one panel for each metric."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from imagen_jax.storage.paths import Path, writing

TITLES = {
    "frechet_distance": "Fréchet distance (lower is better)",
    "caption_recall_at_10": "caption recall@10 (higher is better)",
}
"""The titles of the plotted metrics. Other metrics are not plotted."""


def plot_metrics(lines: Sequence[Mapping[str, int | float]], path: Path, subtitle: str) -> None:
    """Plots each metric with a title against the step, and ``chance``, if present, dotted in the last panel.

    Args:
        lines: the metrics of each ``step``; at least one line.
        path: the PNG file.
        subtitle: a description of the measurement.
    """
    names = [name for name in TITLES if name in lines[-1]]
    figure = Figure(figsize=(5 * len(names), 3.6), layout="constrained")
    axes = figure.subplots(1, len(names), squeeze=False)
    for axis, name in zip(axes[0], names, strict=True):
        of_name = [line for line in lines if name in line]
        axis.plot([line["step"] for line in of_name], [line[name] for line in of_name], "o-", markersize=4)
        axis.set(title=TITLES[name], xlabel="step")
        axis.set_ylim(bottom=0)
        axis.xaxis.set_major_locator(MaxNLocator(nbins=8, steps=[1, 2, 5, 10], integer=True))
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(visible=True, alpha=0.3)
    if "chance" in lines[-1]:
        axes[0][-1].axhline(lines[-1]["chance"], color="grey", linestyle=":", label="chance")
        axes[0][-1].legend(frameon=False)
    figure.suptitle(subtitle, fontsize=9, color="dimgrey")
    with writing(path) as file:
        figure.savefig(file, dpi=120)
