"""The loss by noise level in the log."""

import jax
import jax.numpy as jnp
import pytest

from imagen_jax.diffusion.loss import LOG_SNR_EDGES, LossByNoiseLevel, sum_by_noise_level
from imagen_jax.training.loop import LoopClock, StepInfo
from imagen_jax.training.monitoring.logging import Goodput, make_logging
from imagen_jax.training.monitoring.metrics import MetricsWriter, Progress, read_metrics
from imagen_jax.training.monitoring.noise_levels import NoiseLevelSums, name_levels
from imagen_jax.training.state import TrainState


def metrics_of(losses, log_snr, skipped=0.0):
    levels = sum_by_noise_level(jnp.asarray(losses), jnp.asarray(log_snr))
    return {"loss": jnp.mean(jnp.asarray(losses)), "skipped": jnp.asarray(skipped), "aux": levels}


def test_each_range_has_a_name():
    assert name_levels() == [
        "loss_log_snr_below_-6", "loss_log_snr_-6_to_-4", "loss_log_snr_-4_to_-2", "loss_log_snr_-2_to_0",
        "loss_log_snr_0_to_2", "loss_log_snr_2_to_4", "loss_log_snr_4_to_6", "loss_log_snr_above_6",
    ]  # fmt: skip
    assert len(name_levels((-1.5, 1.5))) == 3 and len(name_levels()) == len(LOG_SNR_EDGES) + 1


def test_examples_of_all_steps_count_alike():
    sums = NoiseLevelSums()
    sums.add(metrics_of([1.0, 2.0, 9.0], [-1.0, -1.5, 7.0]))
    sums.add(metrics_of([6.0], [-0.5]))
    assert sums.take() == {"loss_log_snr_-2_to_0": pytest.approx(3.0), "loss_log_snr_above_6": pytest.approx(9.0)}
    assert sums.take() == {}, "they are taken once"


def test_a_skipped_step_does_not_count():
    sums = NoiseLevelSums()
    sums.add(metrics_of([1.0], [1.0]))
    sums.add(metrics_of([float("nan")], [1.0], skipped=1.0))
    assert sums.take() == {"loss_log_snr_0_to_2": pytest.approx(1.0)}


def test_micro_batches_have_the_mean_of_all_examples():
    """Gradient accumulation averages totals and counts over the micro-batches."""
    sums = NoiseLevelSums()
    halves = LossByNoiseLevel(jnp.zeros(8).at[0].set(1.5), jnp.zeros(8).at[0].set(0.5))
    sums.add({"skipped": jnp.asarray(0.0), "aux": halves})
    assert sums.take() == {"loss_log_snr_below_-6": pytest.approx(3.0)}


def test_a_line_has_the_means_since_the_last_line(tmp_path):
    clock, sums = LoopClock(), NoiseLevelSums()
    state = TrainState(jnp.asarray(0), {}, {}, (), jax.random.key(0))
    with MetricsWriter(tmp_path) as writer, Progress("Training", 0, 4) as progress:
        log = make_logging(16, writer, progress, clock, Goodput(tmp_path), None, levels=sums)
        for number, loss in enumerate((1.0, 3.0, 5.0, 5.0), 1):
            metrics = metrics_of([loss], [5.0])
            sums.add(metrics)
            if number % 2 == 0:
                log(number, StepInfo(state, metrics, {}, clock))
    name = "loss_log_snr_4_to_6"
    assert [(line["loss"], line[name]) for line in read_metrics(tmp_path)] == [(3.0, 2.0), (5.0, 5.0)]
