"""Embeddings become vectors and samples as DALL·E 2 and Karlo have them."""

import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.clip.embedding_space import EmbeddingSpace
from imagen_jax.errors import UserError


def draw(count, width, seed=0):
    return np.random.default_rng(seed).normal(2.0, 3.0, (count, width)).astype(np.float32)


def test_the_samples_of_a_prior_are_unit_vectors_times_17_point_2_at_the_papers_width():
    embeddings, space = draw(5, 1024), EmbeddingSpace()
    lengths = np.linalg.norm(embeddings.astype(np.float64), axis=1, keepdims=True)
    np.testing.assert_allclose(space.to_samples(space.to_vectors(embeddings)), 17.2 * embeddings / lengths, rtol=1e-5)


@pytest.mark.parametrize("of", [np.asarray, jnp.asarray], ids=["NumPy", "JAX"])
def test_a_shrunk_sample_gets_the_length_of_a_vector_back(of):
    space = EmbeddingSpace()
    vectors = space.to_vectors(of(draw(4, 16)))
    np.testing.assert_allclose(space.from_samples(0.7 * space.to_samples(vectors)), vectors, rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 4.0, rtol=1e-5)
    assert not np.any(space.to_vectors(of(np.zeros((1, 16), np.float32))))


def test_raw_embeddings_are_standardised_and_keep_their_length():
    mean, deviations = draw(1, 6)[0], 0.5 + np.abs(draw(1, 6, seed=1)[0])
    space = EmbeddingSpace("raw", mean=tuple(map(float, mean)), deviations=tuple(map(float, deviations)))
    embeddings = draw(7, 6, seed=2)
    samples = space.to_samples(space.to_vectors(embeddings))
    np.testing.assert_allclose(samples, (embeddings - mean) / deviations, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(space.from_samples(samples), embeddings, rtol=1e-4, atol=1e-5)
    assert EmbeddingSpace("raw").from_samples(embeddings) is embeddings


@pytest.mark.parametrize(
    "fields",
    [
        {"form": "unity"},
        {"form": "unit", "mean": (0.0,), "deviations": (1.0,)},
        {"form": "raw", "mean": (0.0, 1.0), "deviations": (1.0,)},
        {"form": "raw", "mean": (0.0,), "deviations": (0.0,)},
        {"deviation": 0.0},
    ],
    ids=str,
)
def test_numbers_that_do_not_belong_to_the_form_are_refused(fields):
    with pytest.raises(UserError, match="embedding"):
        EmbeddingSpace(**fields)
