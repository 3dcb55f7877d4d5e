"""What a run tells people."""

import io
import sys
import time
from types import SimpleNamespace

import pytest

from imagen_jax.errors import UserError
from imagen_jax.training.monitoring.metrics import MetricsWriter, Progress, read_metrics


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
    with pytest.raises(UserError, match="tensorboardX"):
        MetricsWriter(tmp_path, tensorboard=True)


def test_tensorboard_gets_the_same_numbers_and_forgets_what_was_cut(tmp_path, monkeypatch):
    events = []

    class SummaryWriter:
        def __init__(self, folder, purge_step):
            events.append((folder, purge_step))

        def add_scalar(self, name, value, step):
            events.append((name, value, step))

        def close(self):
            events.append("closed")

    monkeypatch.setitem(sys.modules, "tensorboardX", SimpleNamespace(SummaryWriter=SummaryWriter))
    with MetricsWriter(tmp_path, first_step=2, tensorboard=True) as writer:
        writer.write(3, {"loss": 0.5, "rate": 2.0})
    assert events == [(str(tmp_path / "tensorboard"), 3), ("loss", 0.5, 3), ("rate", 2.0, 3), "closed"]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_the_bar_shows_loss_and_speed(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with Progress("Training base", first_step=4, steps=8) as progress:
        progress.update(8, 0.1234, 56.78)
    shown = terminal.getvalue().split("\r")[-1]
    assert "Training base" in shown and "8/8" in shown and "loss 0.1234, 56.8 images/s" in shown


def test_a_log_file_gets_whole_lines_seldom(monkeypatch, capsys):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with Progress("Training base", first_step=100, steps=200) as progress:
        for step in range(101, 201):
            now[0] += 1
            progress.update(step, 1 / step, 16.0)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(" steps")[0] for line in lines] == [
        f"Training base: {step}/200" for step in (101, 131, 161, 191, 200)
    ]
    assert lines[1].endswith("01:09 left, loss 0.0076, 16.0 images/s")


def test_the_first_step_of_a_start_is_shown_at_once_and_its_time_does_not_count(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with Progress("Training base", first_step=100, steps=200) as progress:
        now[0] += 500  # the first step, with all that is read before it
        for step in range(101, 181):
            progress.note(step)
            if step % 40 == 0:
                progress.update(step, 0.5, 16.0)
            now[0] += 1
    assert capsys.readouterr().err.splitlines() == [
        "Training base: 101/200 steps", "Training base: 160/200 steps, 00:40 left, loss 0.5000, 16.0 images/s"
    ]  # fmt: skip


def test_a_bar_counts_from_the_first_step_of_a_start(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    now = [0.0]
    with Progress("Training base", first_step=100, steps=200) as progress:
        progress._bar._time = lambda: now[0]
        now[0] += 500
        progress.note(101)
        now[0] += 40
        progress.update(141, 0.5, 16.0)
        assert progress._bar.format_dict["elapsed"] == 40 and progress._bar.format_dict["initial"] == 101


@pytest.mark.parametrize("line", ["{", "[1]", '{"loss": 1}', '{"step": "3"}', "[" * 5000, "\0"])
def test_a_damaged_line_is_a_sentence(tmp_path, line):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n' + line + "\n")
    with pytest.raises(UserError, match=r"metrics\.jsonl"):
        read_metrics(tmp_path)
