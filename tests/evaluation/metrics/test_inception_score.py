"""The Inception Score where it is known: one-hot, uniform, and classes of unequal share."""

import numpy as np
import pytest

from imagen_jax.errors import UserError
from imagen_jax.evaluation.metrics.inception_score import exponential_divergence, inception_score


def one_hot(classes, width, height=1000.0):
    return height * np.eye(width)[np.asarray(classes)]


def test_sure_images_of_all_classes_score_the_number_of_classes():
    measured = inception_score(one_hot(np.tile(np.arange(7), 30), 7), splits=1)
    assert measured.score == pytest.approx(7.0, rel=1e-12)
    assert measured.as_dict() == {
        "score": measured.score,
        "standard_deviation": 0.0,
        "splits": 1,
        "pictures": 210,
    }


def test_unsure_images_and_images_of_one_class_score_one():
    assert inception_score(np.full((50, 7), 3.0)).score == pytest.approx(1.0, rel=1e-12)
    # Six classes underflow to exactly no probability, of which the logarithm is not taken.
    assert inception_score(one_hot(np.zeros(50, int), 7)).score == pytest.approx(1.0, rel=1e-12)


def test_sure_images_of_unequal_classes_score_the_exponential_of_their_entropy():
    shares = np.array([0.5, 0.25, 0.25])
    logits = one_hot(np.repeat([0, 1, 2], [20, 10, 10]), 3)
    assert exponential_divergence(logits) == pytest.approx(np.exp(-np.sum(shares * np.log(shares))), rel=1e-12)


def test_it_equals_the_formula_and_no_constant_matters():
    logits = np.random.default_rng(0).standard_normal((40, 5))
    given = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    overall = given.mean(0)
    expected = np.exp(np.mean([sum(row * np.log(row / overall)) for row in given]))
    assert exponential_divergence(logits) == pytest.approx(expected, rel=1e-12)
    assert exponential_divergence(logits + 1000.0) == pytest.approx(expected, rel=1e-9)


def test_parts_are_of_shuffled_images_and_seeded():
    logits = one_hot(np.repeat(np.arange(10), 100), 10)
    measured = inception_score(logits)
    assert (measured.splits, measured.pictures) == (10, 1000)
    # In their order each part would have one class, and score 1; shuffled they miss no class.
    assert 9.0 < measured.score < 10.0
    assert measured == inception_score(logits)
    assert measured.score != inception_score(logits, seed=1).score


def test_unmeasurable_inputs_are_refused():
    with pytest.raises(UserError, match=r"\b10\b.*\b9\b"):
        inception_score(np.zeros((9, 5)))
    bad = np.zeros((12, 5))
    bad[11, 0] = np.inf
    with pytest.raises(UserError, match=r"1 of 12 .*\b11\b"):
        inception_score(bad)
