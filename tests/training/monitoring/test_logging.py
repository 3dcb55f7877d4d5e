"""What a run says of its speed."""

import time

import jax
import jax.numpy as jnp
import pytest

from imagen_jax.training.loop import LoopClock, StepInfo
from imagen_jax.training.monitoring.logging import Goodput, make_logging
from imagen_jax.training.monitoring.metrics import MetricsWriter, Progress, read_metrics
from imagen_jax.training.state import TrainState


def test_goodput_counts_a_step_that_is_done_again_once(tmp_path, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(time, "time", lambda: now[0])
    with MetricsWriter(tmp_path) as writer:
        goodput = Goodput(tmp_path)
        for step in (10, 20, 30):
            now[0] += 10
            writer.write(step, goodput.of(0.8 * step))
    # Killed: step 20 was saved, the ten steps after it are lost, and nothing ran for 60 seconds.
    now[0] += 60
    with MetricsWriter(tmp_path, first_step=20) as writer:
        goodput = Goodput(tmp_path)
        now[0] += 10
        writer.write(30, goodput.of(8.0))
    shares = [line["goodput"] for line in read_metrics(tmp_path)]
    assert shares == pytest.approx([0.8, 0.8, (16 + 8) / 100])


def test_a_run_of_an_older_version_begins_to_count_now(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        writer.write(10, {"loss": 1.0})
    assert Goodput(tmp_path).of(3.0)["useful_seconds"] == 3


def test_a_line_covers_the_steps_since_the_last(tmp_path):
    clock = LoopClock()
    state = TrainState(jnp.asarray(0), {}, {}, (), jax.random.key(0))
    info = StepInfo(state, {"loss": 0.5}, {"batches_read": 3}, clock)
    with MetricsWriter(tmp_path) as writer, Progress("Training", 0, 20) as progress:
        log = make_logging(16, writer, progress, clock, Goodput(tmp_path), lambda rate: rate / 100, dict)
        for seconds, waited, saved in ((0.5, 0.0, 0.0), (0.5, 0.5, 3.0)):
            for _ in range(10):
                clock.add_step(seconds)
                clock.add_outside("input", waited)
            clock.add_outside("checkpoint", saved)
            log(clock.steps, info)
    first, second = read_metrics(tmp_path)
    assert first["batches_read"] == 3, "the reading is reported as of the step, not of the batch that is fetched ahead"
    assert (first["images_per_second"], second["images_per_second"]) == (32, 16)
    assert second["images_per_second_per_chip"] == 16 / jax.device_count()
    assert (first["input_wait"], second["input_wait"]) == (0, 0.5)
    assert (first["mfu"], second["mfu"]) == pytest.approx((0.02, 0.01))
    assert (first["checkpoint_seconds"], second["checkpoint_seconds"]) == (0, 3)
    assert second["useful_seconds"] == 10 and second["seconds"] == 18
