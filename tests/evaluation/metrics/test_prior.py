"""The measures of a prior against embeddings whose answer is known."""

import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.clip.embedding_space import choose_nearest
from imagen_jax.errors import UserError
from imagen_jax.evaluation.metrics.prior import EmbeddingPairs, cosines, fit_ridge, measure_prior

GENERATOR = np.random.default_rng(0)
TURN = np.linalg.qr(GENERATOR.normal(size=(8, 8)))[0]


def draw(count, seed):
    return np.random.default_rng(seed).normal(size=(count, 8)).astype(np.float32)


def test_a_regression_finds_the_turn_between_captions_and_images():
    captions = draw(200, 1)
    fitted = fit_ridge(EmbeddingPairs(3.0 * captions @ TURN, captions))
    other = draw(20, 2)
    assert cosines(other @ fitted, other @ TURN).min() > 0.999
    with pytest.raises(UserError, match="10"):
        fit_ridge(EmbeddingPairs(captions[:9], captions[:9]))


def test_of_the_draws_the_one_nearest_to_the_caption_stays():
    captions = draw(5, 3)
    near, far = captions + 0.1 * draw(5, 4), -captions
    odd = np.arange(5)[:, None] % 2
    drawn = jnp.stack([np.where(odd, near, far), np.where(odd, far, near)])
    chosen = choose_nearest(drawn, jnp.asarray(captions))
    np.testing.assert_array_equal(chosen, near)


def test_a_prior_that_knows_the_images_is_told_from_captions_that_do_not():
    captions = draw(40, 5)
    held_out, training = EmbeddingPairs(captions @ TURN, captions), EmbeddingPairs(draw(50, 6), draw(50, 7))
    texts = [f"caption {number}" for number in range(40)]
    line = measure_prior([held_out.images, 2.0 * held_out.images], held_out, texts, training)
    assert line["prior_cosine"] == pytest.approx(1.0) and line["prior_cosine_error"] == pytest.approx(0.0, abs=1e-6)
    assert line["prior_recall_at_1"] == line["best_of_2_recall_at_1"] == 1.0
    assert line["prior_diversity"] == pytest.approx(0.0, abs=1e-6)
    assert line["text_vector_recall_at_1"] < 0.3 and abs(line["text_vector_cosine"]) < 0.5
    assert line["chance_at_10"] == pytest.approx(0.25)
    assert line["prior_nearest_training"] == pytest.approx(line["true_nearest_training"])
    # Opposite draws differ as much as draws can.
    opposite = measure_prior([held_out.images, -held_out.images], held_out, texts, training)
    assert opposite["prior_diversity"] == pytest.approx(2.0)


def test_equal_captions_are_one_caption_of_several_images():
    captions = np.repeat(draw(10, 8), 2, axis=0)
    images = captions @ TURN + 0.01 * draw(20, 9)
    line = measure_prior(
        [images, images],
        EmbeddingPairs(images, captions),
        [f"{n // 2}" for n in range(20)],
        EmbeddingPairs(draw(20, 1), draw(20, 2)),
    )
    assert line["prior_recall_at_1"] == 1.0 and line["chance_at_1"] == pytest.approx(2 / 20)
