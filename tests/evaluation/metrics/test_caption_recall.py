"""Caption recall: hand-made features whose answer is known, and what guessing gives."""

import numpy as np
import pytest
from scipy import stats

from imagen_jax.errors import UserError
from imagen_jax.evaluation.metrics.caption_recall import (
    SHUFFLES,
    binomial_bound,
    cosine_similarity,
    measure_caption_recall,
    ranks_of,
    recall_at,
)


def on_circle(*degrees):
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def test_ranks_count_the_images_that_are_nearer():
    similarity = cosine_similarity(on_circle(0, 0, 90), on_circle(10, 20, 30, 80))
    assert ranks_of(similarity, np.asarray([0, 2, 3])).tolist() == [1, 3, 1]
    assert ranks_of(similarity, np.asarray([3, 1, 0])).tolist() == [4, 2, 4]


def test_length_does_not_matter():
    features = on_circle(0, 40)
    scaled = features * np.asarray([[100.0], [0.01]], np.float32)
    np.testing.assert_allclose(cosine_similarity(scaled, features), cosine_similarity(features, scaled), atol=1e-6)
    np.testing.assert_allclose(cosine_similarity(scaled, features)[0, 1], np.cos(np.radians(40)), rtol=1e-6)


def test_ties_count_against_an_image():
    images = on_circle(10, 10, 10, 50)
    assert ranks_of(cosine_similarity(on_circle(10), images), np.asarray([1])).tolist() == [3]


def test_equal_images_tie_whatever_their_position_in_the_product():
    generator = np.random.default_rng(0)
    image = generator.normal(size=(1, 1280)).astype(np.float32)
    images = np.concatenate([image, generator.normal(size=(500, 1280)).astype(np.float32), np.repeat(image, 36, 0)])
    sample = image + 0.5 * generator.normal(size=image.shape).astype(np.float32)
    for own in (0, 501, 536):
        assert ranks_of(cosine_similarity(sample, images), np.asarray([own])).tolist() == [37]


@pytest.mark.parametrize("value", [np.nan, 0.0])
def test_an_image_that_is_near_nothing_has_the_last_rank(value):
    similarity = cosine_similarity(np.full((1, 2), value, np.float32), on_circle(0, 10, 20))
    assert ranks_of(similarity, np.asarray([0])).tolist() == [3]


def test_recall_is_the_share_of_ranks_up_to_k():
    ranks = np.asarray([1, 2, 3, 10, 11])
    assert [recall_at(ranks, k) for k in (1, 3, 10, 11)] == [0.2, 0.6, 0.8, 1.0]


def test_perfect_images_are_all_found_and_their_shuffles_are_within_chance():
    images = np.random.default_rng(0).normal(size=(1900, 64)).astype(np.float32)
    own = np.random.default_rng(1).permutation(1900)[:128]
    measured = measure_caption_recall(images[own], own, images)
    assert measured.recall == 1.0
    assert measured.shuffled <= measured.shuffled_largest <= 2 * measured.chance_upper_bound
    assert measured.shuffled <= measured.chance_upper_bound
    assert (measured.samples, measured.images, measured.k) == (128, 1900, 10)
    assert measured.chance == 10 / 1900


def test_random_features_give_about_chance():
    recalls = []
    for seed in range(20):
        generator = np.random.default_rng(seed)
        images, samples = (generator.normal(size=(count, 16)).astype(np.float32) for count in (200, 128))
        measured = measure_caption_recall(samples, generator.permutation(200)[:128], images)
        recalls.append(measured.recall)
    # 2,560 guesses at 10 of 200: the standard error is 0.0043.
    np.testing.assert_allclose(np.mean(recalls), 10 / 200, rtol=0, atol=0.013)


def test_a_shuffle_gives_no_image_its_own_caption():
    images = np.eye(2, 8, dtype=np.float32)
    measured = measure_caption_recall(images, np.asarray([0, 1]), images, k=1)
    assert measured.recall == 1.0 and measured.shuffled == measured.shuffled_largest == 0.0


def test_shuffles_depend_on_the_seed_alone():
    generator = np.random.default_rng(0)
    images, samples = generator.normal(size=(40, 4)), generator.normal(size=(20, 4))
    own = generator.permutation(40)[:20]
    first, again, other = (measure_caption_recall(samples, own, images, seed=seed) for seed in (3, 3, 4))
    assert first == again and first.recall == other.recall and first.shuffled != other.shuffled


def test_the_shuffled_recall_is_a_mean_of_several():
    generator = np.random.default_rng(0)
    images, samples = generator.normal(size=(40, 4)), generator.normal(size=(20, 4))
    hits = measure_caption_recall(samples, np.arange(20), images).shuffled * SHUFFLES * 20
    assert SHUFFLES > 10 and hits == pytest.approx(round(hits))


@pytest.mark.parametrize(("trials", "chance"), [(128, 10 / 1900), (128, 0.5), (5000, 0.3), (10, 0.9), (1, 0.001)])
@pytest.mark.parametrize("confidence", [0.5, 0.99])
def test_the_bound_equals_scipys(trials, chance, confidence):
    assert binomial_bound(trials, chance, confidence) == stats.binom.ppf(confidence, trials, chance)


def test_fewer_images_than_k_make_any_image_a_hit():
    measured = measure_caption_recall(on_circle(0, 90), np.asarray([0, 1]), on_circle(0, 90, 180))
    assert (measured.recall, measured.shuffled, measured.chance, measured.chance_upper_bound) == (1.0, 1.0, 1.0, 1.0)


def test_one_image_cannot_be_shuffled():
    with pytest.raises(UserError):
        measure_caption_recall(on_circle(0), np.asarray([0]), on_circle(0, 10))


def test_the_fields_are_plain_numbers():
    measured = measure_caption_recall(on_circle(0, 90), np.asarray([0, 1]), on_circle(0, 90, 180), k=1)
    fields = measured.as_dict()
    assert {type(value) for value in fields.values()} == {int, float}
    assert fields["recall"] == 1.0 and fields["k"] == 1
