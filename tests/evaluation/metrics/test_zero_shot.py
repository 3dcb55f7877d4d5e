"""Zero-shot classification: the classifier stated in loops, accuracies by hand, ties, and what can't be compared."""

import math

import numpy as np
import pytest

from imagen_jax.errors import UserError
from imagen_jax.evaluation.metrics.zero_shot import (
    build_classifier,
    check_widths,
    classify,
    measure_accuracy,
    predict,
    rank_labels,
)


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def length(vector):
    return math.sqrt(sum(float(value) ** 2 for value in vector))


def state_classifier(prompts):
    """CLIP, section 3.1.4, in loops."""
    rows = []
    for embeddings in prompts:
        total = [0.0] * embeddings.shape[1]
        for embedding in embeddings:
            for place, value in enumerate(embedding):
                total[place] += float(value) / length(embedding) / len(embeddings)
        rows.append([value / length(total) for value in total])
    return np.asarray(rows)


def test_the_classifier_is_that_of_the_paper():
    # Lengths differ by far, so that an average of unnormalised embeddings would be another one.
    prompts = [
        draw(count, 6, seed=count) * np.geomspace(0.1, 30, count)[:, None].astype(np.float32) for count in (1, 3, 5)
    ]
    found = build_classifier(prompts)
    np.testing.assert_allclose(found, state_classifier(prompts), atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1.0, atol=1e-12)
    plain = np.stack([one.mean(axis=0) / length(one.mean(axis=0)) for one in prompts])
    assert np.abs(found - plain).max() > 0.05


def test_probabilities_are_a_softmax_of_scaled_cosines():
    images, classifier = draw(4, 5), draw(3, 5, seed=1)
    found = classify(images, classifier, 7.0)
    for row in range(4):
        cosines = [
            float(images[row] @ one) / length(images[row]) / length(one) for one in classifier.astype(np.float64)
        ]
        np.testing.assert_allclose(found.cosines[row], cosines, atol=1e-6)
        powers = [math.exp(7.0 * cosine) for cosine in cosines]
        np.testing.assert_allclose(found.probabilities[row], np.asarray(powers) / sum(powers), atol=1e-6)


def test_a_large_scale_overflows_nothing():
    found = classify(draw(3, 4), draw(2, 4, seed=1), 1e4)
    assert np.all(np.isfinite(found.probabilities))
    np.testing.assert_allclose(found.probabilities.sum(axis=1), 1.0)


def test_the_accuracy_by_hand():
    scores = np.asarray([[3, 2, 1, 0], [0, 3, 2, 1], [3, 2, 1, 0], [0, 1, 2, 3], [3, 0, 1, 2]], np.float64)
    found = measure_accuracy(scores, np.asarray([0, 1, 1, 3, 3]), ["a", "b", "c", "d"])
    assert found.accuracy == 0.6 and found.images == 5
    assert found.standard_error == pytest.approx(math.sqrt(0.6 * 0.4 / 5))
    assert found.confusion.tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [1, 0, 0, 1]]
    assert (found.chance, found.majority, found.majority_class) == (0.25, 0.4, "b")
    assert [one.recall for one in found.classes[:2]] == [1.0, 0.5] and math.isnan(found.classes[2].recall)
    assert found.classes[1].standard_error == pytest.approx(math.sqrt(0.25 / 2))
    assert [one.predicted for one in found.classes] == [3, 1, 0, 1]
    assert found.mean_per_class == pytest.approx((1.0 + 0.5 + 0.5) / 3)
    assert found.top == {1: 0.6}, "the top 5 of four classes is no measure"


def test_the_top_five_are_counted_with_more_classes():
    scores = -np.arange(8.0)[None].repeat(8, axis=0)
    found = measure_accuracy(scores, np.arange(8), [str(number) for number in range(8)])
    assert found.top == {1: 1 / 8, 5: 5 / 8} and found.as_dict()["top_5"] == 5 / 8


def test_a_tie_counts_against_an_image():
    scores = np.asarray([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0], [1.0, 1.0, 1.0], [0.5, 0.5 + 1e-9, 0.0]])
    labels = np.asarray([0, 2, 1, 1])
    assert rank_labels(scores, labels).tolist() == [2, 2, 3, 2]
    predicted = predict(scores, labels)
    assert not np.any(predicted == labels)
    found = measure_accuracy(scores, labels, "abc")
    assert found.accuracy == 0.0 and np.trace(found.confusion) == 0


def test_equal_classes_are_never_told_apart():
    classifier = build_classifier([draw(2, 6), draw(2, 6), draw(2, 6, seed=3)])
    found = measure_accuracy(classify(draw(50, 6, seed=2), classifier, 1.0).cosines, np.zeros(50, int), "abc")
    assert found.accuracy == 0.0


def test_guesses_reach_chance():
    scores, labels = draw(4000, 5), np.random.default_rng(1).integers(0, 5, 4000)
    found = measure_accuracy(scores, labels, "abcde")
    assert abs(found.accuracy - found.chance) < 4 * found.standard_error
    assert found.top == {1: found.accuracy}


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: build_classifier([draw(2, 4)]),
        lambda: build_classifier([draw(2, 4), draw(0, 4)]),
        lambda: build_classifier([draw(2, 4), draw(2, 5)]),
        lambda: build_classifier([draw(2, 4), np.zeros((1, 4), np.float32)]),
        lambda: build_classifier([draw(2, 4), np.full((1, 4), np.nan, np.float32)]),
        lambda: classify(draw(3, 4), draw(2, 5), 1.0),
        lambda: check_widths(draw(3, 4), draw(2, 5)),
        lambda: measure_accuracy(np.zeros((0, 2)), np.zeros(0, int), "ab"),
    ],
)
def test_what_does_not_compare_is_an_error_of_the_user(wrong):
    with pytest.raises(UserError):
        wrong()


def test_the_summary_has_plain_values():
    summary = measure_accuracy(draw(6, 3), np.asarray([0, 1, 2, 0, 1, 2]), "abc").as_dict()
    assert {type(value) for value in summary.values()} <= {int, float, str}
