"""The plot of losses: its lines, and runs that are short, empty or broken."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

from imagen_jax.errors import UserError
from imagen_jax.evaluation.reports.loss_plot import plot_losses, plot_run, running_mean


def log_lines(*losses):
    return [{"step": 10 * (number + 1), "loss": loss} for number, loss in enumerate(losses)]


def test_each_run_has_a_panel(tmp_path):
    plot_losses({"base": log_lines(1.0, 0.5)}, tmp_path / "one.png")
    plot_losses({"base": log_lines(1.0, 0.5), "larger": log_lines(0.3, 0.1)}, tmp_path / "two.png")
    with Image.open(tmp_path / "one.png") as one, Image.open(tmp_path / "two.png") as two:
        assert (two.width, two.height) == (2 * one.width, one.height)
    assert plt.get_fignums() == [], "figures are closed"


def test_raw_and_smoothed_losses_are_plotted_on_a_log_scale():
    figure, axis = plt.subplots()
    losses = np.geomspace(1.0, 0.01, 100)
    plot_run(axis, log_lines(*losses))
    raw, smooth = axis.lines
    np.testing.assert_array_equal(raw.get_xdata(), np.arange(10, 1001, 10))
    np.testing.assert_array_equal(raw.get_ydata(), losses)
    assert axis.get_yscale() == "log" and smooth.get_linewidth() > raw.get_linewidth()
    assert smooth.get_label() == "mean of 5 lines"
    np.testing.assert_allclose(smooth.get_ydata()[50], losses[48:53].mean())
    plt.close(figure)


def test_a_running_mean_is_centred_shorter_at_the_ends_and_skips_non_finite_values():
    values = np.asarray([1.0, 2.0, np.nan, 4.0, 9.0])
    np.testing.assert_allclose(running_mean(values, 3), [1.5, 1.5, 3.0, 6.5, 6.5])
    assert np.isnan(running_mean(np.full(4, np.inf), 2)).all()
    np.testing.assert_array_equal(running_mean(np.asarray([5.0]), 1), [5.0])


@pytest.mark.parametrize("losses", [(0.5,), (float("nan"), float("inf")), (0.5, 0.0, 0.2), (float("nan"), 0.1)])
def test_odd_runs_are_plotted_without_warnings(tmp_path, losses):
    plot_losses({"odd": log_lines(*losses), "empty": []}, tmp_path / "loss.png")
    assert (tmp_path / "loss.png").stat().st_size > 0


def test_runs_without_any_line_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"metrics\.jsonl"):
        plot_losses({"base": [], "larger": []}, tmp_path / "loss.png")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(UserError, match=r"none/loss\.png"):
        plot_losses({"base": log_lines(1.0, 0.5)}, tmp_path / "none" / "loss.png")
    assert plt.get_fignums() == []
