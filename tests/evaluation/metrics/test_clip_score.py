"""CLIP scores of embeddings on a circle, and R-precision where chance is known."""

import math

import numpy as np
import pytest

from imagen_jax.errors import UserError
from imagen_jax.evaluation.metrics.clip_score import clip_score, r_precision, sample_others


def on_circle(*degrees):
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def sample(count, seed, width=32):
    return np.random.default_rng(seed).standard_normal((count, width)).astype(np.float32)


def test_scores_are_means_of_cosines_whatever_the_lengths():
    images, captions = 5.0 * on_circle(0, 0, 0), 0.1 * on_circle(60, 90, 120)
    measured = clip_score(images, captions)
    assert measured.cosine == pytest.approx(0.0, abs=1e-7)
    assert measured.cosine_error == pytest.approx(0.5 / math.sqrt(3))
    assert measured.hessel == pytest.approx(2.5 * 0.5 / 3), "what is below 0 counts as 0"
    assert measured.hessel_error == pytest.approx(1.25 / 3)
    assert set(measured.as_dict()) == {"cosine", "cosine_error", "hessel", "hessel_error", "pictures"}


def test_one_image_has_a_score_and_no_error():
    measured = clip_score(on_circle(0), on_circle(60))
    assert measured.cosine == pytest.approx(0.5)
    assert math.isnan(measured.cosine_error)


def test_images_equal_to_their_captions_are_all_right():
    captions = sample(150, 0)
    measured = r_precision(3.0 * captions, captions)
    assert measured.as_dict() == {
        "precision": 1.0,
        "standard_error": 0.0,
        "chance": 0.01,
        "candidates": 100,
        "pictures": 150,
    }


def test_random_images_are_right_as_often_as_chance():
    measured = r_precision(sample(2000, 1), sample(2000, 2), candidates=10)
    assert measured.chance == 0.1
    assert measured.precision == pytest.approx(0.1, abs=4 * measured.standard_error)
    assert measured.standard_error == pytest.approx(math.sqrt(0.09 / 2000), rel=0.1)
    assert measured == r_precision(sample(2000, 1), sample(2000, 2), candidates=10)


def test_with_all_captions_as_candidates_it_is_the_share_of_first_ranks():
    captions, noise = sample(60, 3), sample(60, 4)
    images = captions + 2.5 * noise
    cosines = (images / np.linalg.norm(images, axis=1)[:, None]) @ (
        captions / np.linalg.norm(captions, axis=1)[:, None]
    ).T
    measured = r_precision(images, captions)
    assert measured.candidates == 60
    assert measured.precision == np.mean(cosines.argmax(1) == np.arange(60))
    assert 0.2 < measured.precision < 0.95


def test_ties_count_against_an_image_unless_its_captions_are_the_same():
    captions = on_circle(10, 10, 80, 150)
    assert r_precision(captions, captions).precision == 0.5
    measured = r_precision(captions, captions, ["a fox", "a fox", "an ox", "a yak"])
    assert (measured.precision, measured.candidates) == (1.0, 3)


def test_others_are_of_other_groups_and_all_come_about_equally_often():
    group = np.array([2, 0, 1, 0, 2, 0, 1, 3])
    counts = np.zeros((8, 8))
    generator = np.random.default_rng(0)
    for _ in range(500):
        for image, others in enumerate(sample_others(group, 3, generator)):
            assert len(set(others.tolist())) == 3
            counts[image, others] += 1
    for image in range(8):
        different = group != group[image]
        assert not counts[image, ~different].any()
        np.testing.assert_allclose(counts[image, different] / 500, 3 / different.sum(), atol=0.1)


def test_unmeasurable_inputs_are_refused():
    with pytest.raises(UserError):
        clip_score(np.zeros((0, 4)), np.zeros((0, 4)))
    with pytest.raises(UserError, match="1 of 2"):
        clip_score(np.array([[0.0, 0.0], [1.0, 0.0]]), on_circle(0, 1))
    with pytest.raises(UserError, match="1 of 2"):
        clip_score(np.array([[np.nan, 0.0], [1.0, 0.0]]), on_circle(0, 1))
    with pytest.raises(UserError, match="3 of 3"):
        r_precision(sample(3, 0), sample(3, 0), ["a fox"] * 3)
