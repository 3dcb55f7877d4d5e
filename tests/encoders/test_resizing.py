"""The three ways to resize, against each one's rule written out pixel by pixel."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.encoders.resizing import RESIZES

SIZE = 23
SHAPES = [(9, 14), (23, 23), (40, 61), (64, 64)]


def make_image(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def resized(name: str, image: np.ndarray) -> np.ndarray:
    way = RESIZES[name]
    prepared = jnp.asarray(way.prepare(image, SIZE))[None]
    return np.asarray(jax.jit(way.finish, static_argnums=1)(prepared, SIZE))[0]


def between(line: np.ndarray, position: float) -> np.ndarray:
    """The value at a position of a line of pixels; it does not change beyond the ends."""
    position = min(max(position, 0.0), len(line) - 1.0)
    before = min(int(position), len(line) - 2)
    share = position - before
    return line[before] * (1 - share) + line[before + 1] * share


def along_both_axes(image: np.ndarray, one_line) -> np.ndarray:
    """``one_line(line, index)`` of each new row, then of each new column."""
    rows = np.stack([one_line(image.astype(np.float64), index) for index in range(SIZE)])
    columns = [one_line(rows.transpose(1, 0, 2), index) for index in range(SIZE)]
    return np.stack(columns, axis=1)


def cubic(distance: float) -> float:
    """Keys' cubic with a = -1/2."""
    x = abs(distance)
    if x < 1:
        return 1.5 * x**3 - 2.5 * x**2 + 1
    return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x < 2 else 0.0


def antialiased(line: np.ndarray, index: int) -> np.ndarray:
    """The mean of a line under a cubic, which is as much wider as the line is longer."""
    stretch = max(len(line) / SIZE, 1.0)
    centre = (index + 0.5) * len(line) / SIZE
    weights = np.array([cubic((pixel + 0.5 - centre) / stretch) for pixel in range(len(line))])
    return np.tensordot(weights / weights.sum(), line, 1)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_tensorflows_way_keeps_corners(shape):
    image = make_image(*shape)
    expected = along_both_axes(image, lambda line, index: between(line, index * len(line) / SIZE))
    np.testing.assert_allclose(resized("legacy_tensorflow", image), (expected - 128) / 128, atol=2e-5)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_pytorchs_way_keeps_centres(shape):
    image = make_image(*shape)
    expected = along_both_axes(image, lambda line, index: between(line, (index + 0.5) * len(line) / SIZE - 0.5))
    np.testing.assert_allclose(resized("legacy_pytorch", image), expected / 127.5 - 1, atol=2e-5)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_clean_way_is_antialiased_and_not_rounded(shape):
    image = make_image(*shape)
    expected = np.clip(along_both_axes(image, antialiased), 0, 255)
    np.testing.assert_allclose(resized("clean", image), (expected - 128) / 128, atol=2e-5)


@pytest.mark.parametrize("name", RESIZES)
def test_images_are_float32_between_their_bounds(name):
    for value in (0, 255):
        images = resized(name, np.full((31, 17, 3), value, np.uint8))
        # TensorFlow's 255 is a little less than one.
        expected = 2 * value / 255 - 1 if name == "legacy_pytorch" else (value - 128) / 128
        assert images.dtype == np.float32 and images.shape == (SIZE, SIZE, 3)
        np.testing.assert_allclose(images, expected, atol=1e-6)


def test_the_three_differ():
    image = make_image(64, 64)
    one, two, three = (resized(name, image) for name in RESIZES)
    assert min(np.abs(one - two).mean(), np.abs(one - three).mean(), np.abs(two - three).mean()) > 0.1
