"""Which losses are spikes."""

import numpy as np
import pytest

from imagen_jax.training.monitoring.spikes import MIN_LOSSES, WINDOW, SpikeFinder


def found(losses):
    """Places of the spikes."""
    finder = SpikeFinder()
    return [place for place, loss in enumerate(losses) if finder.find(float(loss))]


def noisy_curve(steps, noise, seed=0):
    """A loss that falls as losses do, with noise in proportion, so that its upper tail is the longer."""
    generator = np.random.default_rng(seed)
    return (0.05 + np.arange(1, steps + 1) ** -0.5) * np.exp(noise * generator.normal(size=steps))


@pytest.mark.parametrize("noise", [0.0, 0.02, 0.2])
def test_a_noisy_curve_that_falls_has_none(noise):
    for seed in range(3):
        assert found(noisy_curve(3000, noise, seed)) == []


def test_a_loss_many_deviations_above_is_one_and_hides_no_other():
    losses = noisy_curve(1000, 0.05)
    losses[[400, 404, 700]] *= 3
    assert found(losses) == [400, 404, 700]


def test_median_and_distance_are_those_of_the_last_losses():
    finder = SpikeFinder()
    losses = np.random.default_rng(0).normal(1.0, 0.1, 2 * WINDOW)
    for loss in losses:
        finder.find(float(loss))
    last = losses[-WINDOW:]
    spike = finder.find(5.0)
    assert spike.median == pytest.approx(np.median(last))
    assert spike.distance == pytest.approx((5 - np.median(last)) / np.std(last), rel=0.2)


def test_a_loss_that_stays_high_is_usual_after_a_while():
    places = found(np.concatenate([noisy_curve(500, 0.05), 10 + noisy_curve(500, 0.05)]))
    assert places[0] == 500 and places[-1] < 500 + WINDOW


def test_without_enough_before_it_none_is_found_nor_after_forgetting():
    assert found([1.0] * (MIN_LOSSES - 1) + [100.0]) == [] and found([1.0] * MIN_LOSSES + [100.0]) == [MIN_LOSSES]
    finder = SpikeFinder()
    for _ in range(MIN_LOSSES):
        finder.find(1.0)
    finder.forget()
    assert finder.find(100.0) is None


def test_the_flicker_of_a_constant_loss_is_none():
    assert found([1.0] * 100 + [1.05]) == []
