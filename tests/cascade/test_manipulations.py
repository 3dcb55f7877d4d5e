"""The rows of a manipulation against closed forms; ``tests/tasks/test_unclip.py`` draws them."""

import numpy as np
import pytest

from imagen_jax.cascade.manipulations import (
    Latents,
    make_components,
    make_interpolation,
    make_text_difference,
    make_variations,
    signal_to_noise,
    slerp,
)
from imagen_jax.clip.codes import fit_components
from imagen_jax.clip.embedding_space import EmbeddingSpace
from imagen_jax.errors import UserError

WIDTH = 16


def unit(seed, shape=(WIDTH,)):
    values = np.random.default_rng(seed).normal(size=shape)
    return (values / np.linalg.norm(values) * np.sqrt(values.size)).astype(np.float32)


ONE, OTHER = (Latents(unit(seed), unit(seed + 10, (4, 4, 3))) for seed in (0, 1))


@pytest.mark.parametrize("shape", [(WIDTH,), (4, 4, 3)], ids=str)
def test_slerp_is_its_formula_keeps_the_length_and_has_exact_ends(shape):
    first, second = (unit(seed, shape).astype(np.float64) for seed in (3, 4))
    shares = [0.0, 0.2, 0.5, 1.0]
    angle = np.arccos((first * second).sum() / np.linalg.norm(first) / np.linalg.norm(second))
    expected = [(np.sin((1 - t) * angle) * first + np.sin(t * angle) * second) / np.sin(angle) for t in shares]
    found = slerp(first, second, shares)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found.reshape(4, -1), axis=1), np.sqrt(first.size), rtol=1e-5)
    np.testing.assert_allclose(found[[0, -1]], [first, second], atol=1e-6)


def test_the_share_of_a_text_difference_is_the_share_of_the_angle():
    requests = make_text_difference(ONE, OTHER.vector, [0.0, 0.25, 0.5])
    angles = [np.arccos(np.clip((request.vector @ ONE.vector) / WIDTH, -1.0, 1.0)) for request in requests]
    whole = np.arccos((OTHER.vector @ ONE.vector) / WIDTH)
    np.testing.assert_allclose(angles, [0.0, 0.25 * whole, 0.5 * whole], atol=2e-3)
    assert all(request.start is ONE.noise for request in requests)
    with pytest.raises(UserError, match=r"0\.5"):
        make_text_difference(ONE, OTHER.vector, [0.51])


def test_a_row_between_pictures_begins_and_ends_at_them():
    row = make_interpolation(ONE, OTHER, [0.0, 0.5, 1.0])
    for request, latents in ((row[0], ONE), (row[-1], OTHER)):
        np.testing.assert_allclose(request.vector, latents.vector, atol=1e-6)
        np.testing.assert_allclose(request.start, latents.noise, atol=1e-6)
    assert all(request.start is None for request in make_interpolation(ONE, OTHER, [0.0, 1.0], one_noise=True))


def test_variations_share_the_embedding_and_begin_at_the_noise_or_at_fresh_ones():
    paper, others = make_variations(ONE, 3), make_variations(ONE, 3, fresh_noise=True)
    assert [request.index for request in paper] == [0, 1, 2]
    assert all(request.vector is ONE.vector for request in [*paper, *others])
    assert all(request.start is ONE.noise for request in paper) and not any(request.start for request in others)


def test_all_components_give_the_picture_back_and_few_the_nearest_of_a_small_space():
    space, seeds = EmbeddingSpace(), range(20, 60)
    vectors = np.stack([unit(seed) for seed in seeds])
    components = fit_components(vectors)
    few, whole = make_components(ONE, components, [3, WIDTH], space)
    np.testing.assert_allclose(whole.vector, ONE.vector, atol=1e-4)
    _, _, directions = np.linalg.svd(vectors - vectors.mean(axis=0))
    projection = vectors.mean(axis=0) + (ONE.vector - vectors.mean(axis=0)) @ directions[:3].T @ directions[:3]
    np.testing.assert_allclose(few.vector, projection / np.linalg.norm(projection) * WIDTH**0.5, atol=1e-3)
    assert few.start is ONE.noise


def test_the_ratio_of_signal_and_noise():
    image = np.zeros((2, 2, 3))
    # The range is 2, and the mean squared error 0.01.
    assert signal_to_noise(image, image + 0.1) == pytest.approx(10 * np.log10(4 / 0.01))
    assert signal_to_noise(image, image) == float("inf")
