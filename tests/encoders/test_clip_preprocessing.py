"""The preparation of images for CLIP: which part of them is kept, and on which scale."""

import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.encoders.clip_preprocessing import normalise, resize_and_crop
from tests.reference.clip_statement import DEVIATION, MEAN


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8)


def test_an_image_of_the_right_size_does_not_change(image):
    np.testing.assert_array_equal(resize_and_crop(image, 224), image)


@pytest.mark.parametrize("shape", [(500, 333), (333, 500), (64, 64), (225, 1000), (30, 31), (1024, 1024)])
def test_any_image_becomes_a_square(shape):
    found = resize_and_crop(np.full((*shape, 3), 77, np.uint8), 224)
    assert found.shape == (224, 224, 3) and found.dtype == np.uint8 and np.all(found == 77)


@pytest.mark.parametrize("extra", [0, 1, 2, 3, 7])
def test_the_middle_is_kept_and_the_odd_pixel_goes_right_or_below(extra):
    wide = np.zeros((32, 32 + extra, 3), np.uint8)
    wide[..., 0] = np.arange(32 + extra)
    columns = np.arange(32) + extra // 2
    np.testing.assert_array_equal(resize_and_crop(wide, 32)[0, :, 0], columns)
    np.testing.assert_array_equal(resize_and_crop(wide.swapaxes(0, 1).copy(), 32)[:, 0, 0], columns)


def test_half_the_size_is_a_mean_with_the_weights_of_a_cubic_kernel():
    # Keys' kernel with a = -1/2, stretched to twice its width, at distances of 1/4, 3/4, 5/4, 7/4 of a new pixel.
    near = [1.5 * d**3 - 2.5 * d**2 + 1 for d in (0.25, 0.75)]
    far = [-0.5 * d**3 + 2.5 * d**2 - 4 * d + 2 for d in (1.25, 1.75)]
    weights = np.asarray([far[1], far[0], near[1], near[0], near[0], near[1], far[0], far[1]]) / 2
    row = np.random.default_rng(1).integers(60, 200, 64)
    image = np.broadcast_to(row[None, :, None], (64, 64, 3)).astype(np.uint8)
    found = resize_and_crop(image.copy(), 32)[0, 5, 0]
    assert found == pytest.approx(weights @ row[7:15], abs=1)


def test_the_scale_is_that_of_the_training_data(image):
    found = normalise(jnp.asarray(image[None]))
    np.testing.assert_allclose(found[0], (image / 255 - MEAN) / DEVIATION, rtol=0, atol=1e-6)
