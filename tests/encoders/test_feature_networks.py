"""Features of many pictures: batches, order, sizes, and what the pixel features see."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.encoders.efficientnet_lite0 import load_efficientnet_lite0
from imagen_jax.encoders.feature_network import FeatureNetwork, Features
from imagen_jax.encoders.feature_networks import BATCH, extract_features, load_pixels
from imagen_jax.errors import UserError


def look_at_corner(weights, images):
    """A feature network that a test can follow: the first pixel, and its sum for class scores."""
    corner = images[:, 0, 0, :].astype(jnp.float32)
    return Features(corner, corner.sum(axis=1, keepdims=True))


CORNER = FeatureNetwork("corner", "the first pixel", 3, "none", "", look_at_corner)


def random_images(count, height=4, width=4):
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("count", [1, BATCH - 1, BATCH, BATCH + 1, 2 * BATCH])
def test_each_image_has_its_own_features_in_order(count):
    images = random_images(count)
    features = extract_features(CORNER, iter(images), count)
    corners = images[:, 0, 0, :].astype(np.float32)
    np.testing.assert_array_equal(features.pooled, corners, strict=True)
    np.testing.assert_array_equal(features.logits, corners.sum(axis=1, keepdims=True))


def test_every_batch_has_the_compiled_size():
    sizes = []

    def record(weights, images):
        sizes.append(images.shape[0])
        return look_at_corner(weights, images)

    extract_features(replace(CORNER, extract=record), random_images(2 * BATCH + 3))
    assert sizes == [BATCH], "it is traced once, for one size"


def test_no_images_are_refused():
    with pytest.raises(UserError):
        extract_features(CORNER, [])


def test_images_of_two_sizes_are_refused_if_the_network_does_not_resize_them():
    images = [*random_images(2), *random_images(1, 5, 6)]
    with pytest.raises(UserError, match=r"4×4 .*6×5 .*corner .*--resize=clean"):
        extract_features(CORNER, images)
    alike = replace(CORNER, prepare=lambda image: image[:2, :2])
    assert len(extract_features(alike, images).pooled) == 3


def pixels_of(images):
    return extract_features(load_pixels(), images).pooled.reshape(-1, 32, 32, 3)


def test_pixels_are_means_of_areas_with_white_as_zero():
    blocks = random_images(2)
    features = pixels_of(np.kron(blocks, np.ones((1, 32, 32, 1), np.uint8)))
    # The middle of each flat block of 8 × 8 pixels.
    np.testing.assert_allclose(features[:, 4::8, 4::8], blocks / 127.5 - 2, rtol=0, atol=1e-6)


def test_white_is_exactly_zero():
    # Rounding would give a white image a direction, and with it neighbours.
    for size in (16, 48, 64):
        assert not pixels_of(np.full((1, size, size, 3), 255, np.uint8)).any()


def test_pixels_are_antialiased():
    stripes = np.full((1, 128, 128, 3), 255, np.uint8)
    stripes[:, ::2] = 0
    # Away from the border, where the filter is cut.
    np.testing.assert_allclose(pixels_of(stripes)[0, 1:-1], -1, rtol=0, atol=1e-6)


def draw_shapes():
    """A red disc, a blue cross and green bars on white."""
    row, column = np.mgrid[-1:1:64j, -1:1:64j]
    shapes = [row**2 + column**2 < 0.5, np.minimum(abs(row), abs(column)) < 0.2, np.sin(12 * column) > 0]
    return [np.where(shape[..., None], colour, 1.0) for shape, colour in zip(shapes, np.eye(3)[[0, 2, 1]], strict=True)]


@pytest.mark.thorough
def test_an_image_is_nearest_to_itself_moved_and_tinted_in_either_network():
    shapes = np.stack(draw_shapes()) * 255
    images = np.concatenate([shapes, 0.9 * np.roll(shapes, 2, axis=2)]).astype(np.uint8)
    for load in (load_pixels, load_efficientnet_lite0):
        features = extract_features(load(), images).pooled
        directions = features / np.linalg.norm(features, axis=1, keepdims=True)
        assert (directions[3:] @ directions[:3].T).argmax(axis=1).tolist() == [0, 1, 2]
