"""Features of many images: batches, order, and what the pixel features see."""

import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.errors import UserError
from imagen_jax.evaluation.features import BATCH, FEATURE_NETWORKS, extract_features, load_pixels


def corner(images):
    """A feature network that a test can follow: the first pixel."""
    return images[:, 0, 0, :]


@pytest.mark.parametrize("count", [1, BATCH - 1, BATCH, BATCH + 1, 2 * BATCH])
def test_each_image_has_its_own_features_in_order(count):
    images = np.random.default_rng(0).uniform(-1, 1, (count, 4, 4, 3)).astype(np.float32)
    features = extract_features(corner, iter(images), count)
    np.testing.assert_array_equal(features, images[:, 0, 0, :], strict=True)


def test_every_batch_has_the_compiled_size():
    sizes = []

    def record(images):
        sizes.append(images.shape[0])
        return corner(images)

    extract_features(record, np.zeros((2 * BATCH + 3, 4, 4, 3), np.float32))
    assert sizes == [BATCH], "it is traced once, for one size"


def test_no_images_are_refused():
    with pytest.raises(UserError, match="no images to extract features of"):
        extract_features(corner, [])


def test_pixels_are_means_of_areas_with_white_as_zero():
    blocks = np.random.default_rng(0).uniform(-1, 1, (2, 4, 4, 3)).astype(np.float32)
    images = np.kron(blocks, np.ones((1, 32, 32, 1), np.float32))
    features = np.asarray(load_pixels()(jnp.asarray(images))).reshape(2, 32, 32, 3)
    # The middle of each flat block of 8 × 8 pixels.
    np.testing.assert_allclose(features[:, 4::8, 4::8], blocks - 1, rtol=0, atol=1e-6)


def test_white_is_exactly_zero():
    # Rounding would give a white picture a direction, and with it neighbours.
    for size in (16, 48, 64):
        assert not np.asarray(load_pixels()(jnp.ones((1, size, size, 3)))).any()


def test_pixels_are_antialiased():
    stripes = np.ones((1, 128, 128, 3), np.float32)
    stripes[:, ::2] = -1
    features = np.asarray(load_pixels()(jnp.asarray(stripes))).reshape(32, 32, 3)
    # Away from the border, where the filter is cut.
    np.testing.assert_allclose(features[1:-1], -1, rtol=0, atol=1e-6)


def draw_shapes():
    """A red disc, a blue cross and green bars on white."""
    row, column = np.mgrid[-1:1:64j, -1:1:64j]
    shapes = [row**2 + column**2 < 0.5, np.minimum(abs(row), abs(column)) < 0.2, np.sin(12 * column) > 0]
    return [np.where(shape[..., None], colour, 1.0) for shape, colour in zip(shapes, np.eye(3)[[0, 2, 1]], strict=True)]


def test_a_picture_is_nearest_to_itself_moved_and_tinted_in_either_network():
    shapes = np.stack(draw_shapes()).astype(np.float32)
    images = [*shapes, *(0.9 * np.roll(shapes, 2, axis=2))]
    for load in FEATURE_NETWORKS.values():
        features = extract_features(load(), images)
        directions = features / np.linalg.norm(features, axis=1, keepdims=True)
        assert (directions[3:] @ directions[:3].T).argmax(axis=1).tolist() == [0, 1, 2]
