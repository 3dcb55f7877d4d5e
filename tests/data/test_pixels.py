import io

import numpy as np
import pytest
from PIL import Image

from imagen_jax.data.pixels import decode_pixels, encode_png, lay_on_white, resize_area, to_image, to_pixels
from imagen_jax.errors import UserError


def random_image(size: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (size, size, 3)).astype(np.float32)


def area_weights(size: int, resolution: int) -> np.ndarray:
    """Shares of old pixels in new ones, by the overlap of their intervals."""
    weights = np.zeros((resolution, size))
    for new in range(resolution):
        left, right = new * size / resolution, (new + 1) * size / resolution
        for old in range(size):
            weights[new, old] = max(0.0, min(right, old + 1) - max(left, old)) * resolution / size
    return weights


def test_every_byte_survives_the_way_to_floats_and_back():
    pixels = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    image = to_image(pixels)
    assert image.dtype == np.float32 and image.min() == -1 and image.max() == 1
    np.testing.assert_array_equal(to_pixels(image), pixels)


def test_what_is_out_of_range_is_clipped():
    image = np.full((1, 1, 3), 1.5, np.float32) * np.array([1, -1, 0], np.float32)[None, None]
    np.testing.assert_array_equal(to_pixels(image)[0, 0], [255, 0, 128])


def test_png_is_lossless():
    pixels = np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    np.testing.assert_array_equal(decode_pixels(encode_png(pixels)), pixels)


@pytest.mark.parametrize("mode", ["L", "P", "RGB", "CMYK", "1", "I;16"])
def test_images_of_any_mode_become_rgb(mode):
    grey = Image.new("L", (4, 4), 255)
    assert lay_on_white(grey.convert("I").convert("I;16") if mode == "I;16" else grey.convert(mode)).shape == (4, 4, 3)


def test_a_transparent_palette_entry_becomes_white():
    image = Image.new("P", (2, 2), 0)
    image.putpalette([10, 20, 30])
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", transparency=0)
    assert (decode_pixels(buffer.getvalue()) == 255).all()


@pytest.mark.parametrize(("size", "resolution"), [(64, 32), (96, 32), (64, 16), (30, 20), (50, 17), (33, 32), (7, 1)])
def test_each_new_pixel_is_the_mean_of_its_area(size, resolution):
    image = random_image(size)
    weights = area_weights(size, resolution)
    expected = np.einsum("yh,xw,hwc->yxc", weights, weights, image)
    np.testing.assert_allclose(resize_area(image, resolution), expected, atol=2e-6)


def test_the_own_size_changes_nothing():
    np.testing.assert_array_equal(resize_area(random_image(12), 12), random_image(12))


@pytest.mark.parametrize("resolution", [8, 9])
def test_a_batch_is_resized_image_by_image(resolution):
    batch = np.stack([random_image(24, seed) for seed in range(3)])
    np.testing.assert_allclose(
        resize_area(batch, resolution), [resize_area(image, resolution) for image in batch], atol=1e-7
    )


def test_two_steps_equal_one():
    image = random_image(120)
    np.testing.assert_allclose(resize_area(resize_area(image, 60), 20), resize_area(image, 20), atol=1e-6)


def test_a_black_and_white_edge_overshoots_nowhere():
    image = np.where(np.arange(50)[:, None, None] < 21, -1.0, 1.0) * np.ones((50, 50, 3))
    small = resize_area(image.astype(np.float32), 17)
    assert small.min() >= -1 and small.max() <= 1


@pytest.mark.parametrize("shape", [(8, 8, 3), (16, 20, 3)])
def test_growing_and_oblong_images_are_refused(shape):
    with pytest.raises(UserError, match=r"\b12×12\b"):
        resize_area(np.zeros(shape, np.float32), 12)
