"""The linear probe: its minimum, how its strength is chosen, and that groups stay together."""

import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from imagen_jax.errors import UserError
from imagen_jax.evaluation.metrics.linear_probe import (
    HELD_OUT,
    STRENGTHS,
    choose_groups,
    choose_strength,
    fit_probe,
    train_probe,
)


def draw_classes(count, classes=3, width=6, noise=1.0, seed=0):
    """Clusters around one random direction for each class, and their labels."""
    centres = np.random.default_rng(99).normal(size=(classes, width)) * 2
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, count)
    return (centres[labels] + noise * generator.normal(size=(count, width))).astype(np.float32), labels


@pytest.mark.parametrize("strength", [1.0, 0.01])
def test_a_fit_is_a_minimum(strength):
    x, labels = draw_classes(80)
    x = x.astype(np.float64)
    fit = fit_probe(x, labels, 3, strength)
    error = (softmax(x @ fit.weights.T + fit.biases, axis=1) - np.eye(3)[labels]) / 80
    assert fit.converged
    assert np.abs(error.T @ x + strength * fit.weights).max() < 1e-3 and np.abs(error.sum(axis=0)).max() < 1e-3


def test_a_fit_to_nothing_but_noise_is_that_of_the_class_shares():
    labels = np.repeat([0, 1], [30, 10])
    fit = fit_probe(np.zeros((40, 2)), labels, 2, 1.0)
    np.testing.assert_allclose(softmax(fit.biases), [0.75, 0.25], atol=1e-3)
    np.testing.assert_allclose(fit.weights, 0.0, atol=1e-6)


def test_the_strength_has_the_lowest_held_out_loss():
    x, labels = draw_classes(60, noise=3.0)
    other, other_labels = draw_classes(60, noise=3.0, seed=1)
    x, other = x.astype(np.float64), other.astype(np.float64)
    losses = []
    for strength in STRENGTHS:
        fit = fit_probe(x, labels, 3, strength)
        logs = log_softmax(other @ fit.weights.T + fit.biases, axis=1)
        losses.append(-np.mean([logs[row, label] for row, label in enumerate(other_labels)]))
    chosen = choose_strength(x, labels, other, other_labels, 3)
    assert losses[STRENGTHS.index(chosen)] == pytest.approx(min(losses), abs=1e-3)
    assert max(losses) > min(losses) + 0.05, "the strength makes a difference here"


def test_the_strengths_go_from_strong_to_weak():
    assert list(STRENGTHS) == sorted(STRENGTHS, reverse=True)
    assert STRENGTHS[0] == pytest.approx(10) and STRENGTHS[-1] == pytest.approx(1e-6)


def test_a_probe_learns_what_it_has_not_seen():
    features, labels = draw_classes(200, classes=4)
    tested, expected = draw_classes(200, classes=4, seed=1)
    probe = train_probe(features, labels, 4)
    assert np.mean(np.argmax(probe.score(tested), axis=1) == expected) > 0.9
    assert probe.converged and probe.training_images == 200 and probe.choosing_images == round(200 * HELD_OUT)


def test_only_the_direction_of_features_counts():
    features, labels = draw_classes(60)
    lengths = np.random.default_rng(5).uniform(0.1, 50, (60, 1)).astype(np.float32)
    one, other = train_probe(features, labels, 3), train_probe(features * lengths, labels, 3)
    np.testing.assert_allclose(one.score(features), other.score(features), rtol=1e-2, atol=1e-2)


def test_random_labels_are_not_learnt():
    features = np.random.default_rng(0).normal(size=(300, 20)).astype(np.float32)
    labels = np.random.default_rng(1).integers(0, 3, 300)
    probe = train_probe(features, labels, 3)
    tested = np.random.default_rng(2).normal(size=(600, 20)).astype(np.float32)
    expected = np.random.default_rng(3).integers(0, 3, 600)
    assert abs(np.mean(np.argmax(probe.score(tested), axis=1) == expected) - 1 / 3) < 0.08


def test_images_of_a_group_choose_together():
    groups = [f"caption {number // 3}" for number in range(60)]
    chooses = choose_groups(groups, seed=0)
    assert {chooses[3 * group : 3 * group + 3].sum() for group in range(20)} == {0, 3}
    assert chooses.sum() == 3 * round(20 * HELD_OUT)
    assert choose_groups(groups, 0).tolist() == chooses.tolist() != choose_groups(groups, 1).tolist()
    assert choose_groups(["a", "b"], 0).sum() == 1


def test_one_image_trains_no_probe():
    with pytest.raises(UserError):
        train_probe(np.ones((3, 2), np.float32), np.asarray([0, 1, 0]), 2, groups=["same"] * 3)
