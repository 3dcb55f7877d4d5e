"""What a run tells people."""

import sys

import pytest

from imagen_jax.errors import UserError
from imagen_jax.training.metrics import MetricsWriter, Progress, read_metrics


def test_lines_are_on_disk_as_soon_as_they_are_written(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        writer.write(1, {"loss": 0.5})
        assert read_metrics(tmp_path) == [{"step": 1, "loss": 0.5}]


def test_a_resumed_run_has_the_lines_of_an_uninterrupted_one(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        for step in (1, 2, 3):
            writer.write(step, {"loss": step / 10})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')  # killed while writing
    with MetricsWriter(tmp_path, first_step=2) as writer:
        writer.write(3, {"loss": 0.7})
    assert read_metrics(tmp_path) == [
        {"step": 1, "loss": 0.1},
        {"step": 2, "loss": 0.2},
        {"step": 3, "loss": 0.7},
    ]


def test_no_run_has_no_lines(tmp_path):
    assert read_metrics(tmp_path) == []


def test_tensorboard_that_is_not_installed_is_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(UserError, match="pip install tensorboardX"):
        MetricsWriter(tmp_path, tensorboard=True)


def test_the_bar_shows_loss_and_speed(capsys):
    with Progress("Training base", first_step=4, steps=8) as progress:
        progress.update(8, 0.1234, 56.78)
    shown = capsys.readouterr().err
    assert "Training base" in shown and "8/8" in shown and "loss 0.1234, 56.8 images/s" in shown
