"""Runs one evaluation, or one for each point of a sweep, with reports and figures."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from imagen_jax.cascade.cascade import Cascade
from imagen_jax.cascade.image_files import make_folder
from imagen_jax.errors import UserError
from imagen_jax.evaluation.protocols.evaluation import Measured, Request, measure_cascade
from imagen_jax.evaluation.protocols.measures import Headline
from imagen_jax.evaluation.protocols.reporting import make_report, write_reports
from imagen_jax.evaluation.protocols.sampled_images import StepBar
from imagen_jax.evaluation.protocols.sweep import Point, label_of, summarise
from imagen_jax.evaluation.protocols.training_captions import (
    describe_recalls,
    headline_of,
    measure_recalls,
    show_pairs,
    warn_of_few,
)
from imagen_jax.evaluation.reports.loss_plot import plot_losses
from imagen_jax.evaluation.reports.pareto import ParetoPoint, plot_pareto
from imagen_jax.evaluation.reports.report import describe_training, write_report
from imagen_jax.runtime import processes
from imagen_jax.storage.paths import Path, to_path
from imagen_jax.training.monitoring.metrics import read_metrics

CROSSWISE = ("CLIP score", "caption recall@10", "precision")
"""Metrics for the horizontal axis of a sweep's plot, all of which guidance should raise; the first available counts."""


def run_evaluation(cascade: Cascade, steps: StepBar, request: Request) -> dict[str, Any]:
    """Samples, measures, and writes the report and its figures. Every process must call it.

    Args:
        cascade: the cascade; its ``on_step`` is ``steps``.
        steps: progress bar of the denoising steps.
        request: inputs and settings of the evaluation.

    Returns:
        The report on process 0; an empty dict on the others.

    Raises:
        UserError: an input of the user can't be used, such as a caption, a file, or a folder with other images.
    """
    measured = measure_cascade(cascade, steps, request)
    if not processes.is_process_zero():
        return {}
    first: list[Headline] = []
    extras: dict[str, Any] = {}
    if request.protocol.recalls:
        recalls = measure_recalls(request, measured)
        network = request.networks[0]
        extras |= describe_recalls(recalls, network.name)
        first.append(headline_of(recalls[network.name], network.title))
        measured.warnings.extend(warn_of_few(recalls[network.name]))
    runs = {to_path(name).name: read_metrics(to_path(name)) for name in cascade.names}
    extras["stages"] = {name: describe_training(lines) for name, lines in runs.items()}
    report = make_report(cascade, request, measured, first, extras)
    figures = write_figures(cascade, request, measured, runs)
    write_reports(request.out, report, figures)
    return report


def write_figures(
    cascade: Cascade, request: Request, measured: Measured, runs: Mapping[str, Sequence[Mapping[str, int | float]]]
) -> dict[str, Path]:
    """Writes the figures of a report and returns their paths by title."""
    figures = {}
    if request.choice.images is not None:
        figures["Sampled images, each beside its caption's own image"] = request.out / "recall.png"
        show_pairs(request, measured, cascade.stages[-1].resolution, request.out / "recall.png")
    if any(runs.values()):
        figures["Loss of each stage"] = request.out / "loss.png"
        plot_losses(runs, request.out / "loss.png")
    return figures


def run_sweep(cascade: Cascade, steps: StepBar, request: Request, points: Sequence[Point]) -> list[dict[str, Any]]:
    """Evaluates and plots all points of a sweep. Every process must call it.

    Images and features that exist already are reused.

    Args:
        cascade: the cascade; each point overrides some of its settings.
        steps: progress bar of the denoising steps.
        request: inputs and settings of each point's evaluation; ``out`` is the folder of the sweep.
        points: combinations of settings.

    Returns:
        A summary of each point on process 0; an empty list on the others.

    Raises:
        UserError: an input of the user can't be used, or the points have no metrics to plot.
    """
    lines = []
    for point in points:
        out = request.out / "points" / point.name
        make_folder(out)
        report = run_evaluation(cascade.adjusted(**point.settings), steps, replace(request, out=out))
        if processes.is_process_zero():
            lines.append(summarise(point, report))
            write_report(request.out / "sweep.json", {"points": lines})
    if processes.is_process_zero():
        plot_points(request.out / "pareto", points, lines)
    return lines


def plot_points(path: Path, points: Sequence[Point], lines: Sequence[Mapping[str, Any]]) -> None:
    """Plots each point's first distance against the first available metric of ``CROSSWISE``.

    Raises:
        UserError: there is no metric for one of the axes.
    """
    measured = [{one["name"]: one["value"] for one in line["headline"]} for line in lines]
    across = next((name for name in CROSSWISE if name in measured[0]), None)
    up = next((one["name"] for one in lines[0]["headline"] if one["better"] == "lower"), None)
    if across is None or up is None:
        raise UserError(
            "the points of --sweep have no metric to plot: name CLIP's weights in --clip_weights, or set more --samples"
        )
    plotted = []
    for point, numbers in zip(points, measured, strict=True):
        label, group = label_of(point)
        plotted.append(ParetoPoint(label, numbers[across], numbers[up], group))
    plot_pareto(plotted, path, across, up)
