"""Features in parts: interrupted anywhere and continued they are the same, and those of other images are refused."""

import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.encoders.feature_network import FeatureNetwork, Features
from imagen_jax.errors import UserError
from imagen_jax.evaluation.protocols import feature_parts
from imagen_jax.evaluation.protocols.feature_parts import extract_in_parts

IMAGES = np.random.default_rng(0).integers(0, 256, (70, 3, 3, 3), dtype=np.uint8)
KEY = {"pictures": "seventy", "count": 70}


def look_at_corner(weights, images):
    corner = images[:, 0, 0, :].astype(jnp.float32)
    return Features(corner / weights, corner.sum(axis=1, keepdims=True))


CORNER = FeatureNetwork("corner", "the first pixel", 3, "none", "abc", look_at_corner, np.float32(2))


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(feature_parts, "PART", 20)


def read(number):
    return IMAGES[number]


def extract(folder, network=CORNER, key=KEY, read=read):
    return extract_in_parts(network, folder, key, len(IMAGES), read)


def test_they_are_those_of_each_image_in_order(tmp_path):
    features = extract(tmp_path / "features")
    corners = IMAGES[:, 0, 0].astype(np.float32)
    np.testing.assert_array_equal(features.pooled, corners / 2)
    np.testing.assert_array_equal(features.logits[:, 0], corners.sum(axis=1))


@pytest.mark.parametrize("stop", [0, 19, 20, 45, 69])
def test_interrupted_at_any_image_and_continued_they_are_the_same(tmp_path, stop):
    def interrupt(number):
        if number == stop:
            raise KeyboardInterrupt
        return read(number)

    with pytest.raises(KeyboardInterrupt):
        extract(tmp_path / "features", read=interrupt)
    requested = []

    def count(number):
        requested.append(number)
        return read(number)

    features = extract(tmp_path / "features", read=count)
    assert sorted(requested) == list(range(20 * (stop // 20), 70)), "complete parts are kept"
    np.testing.assert_array_equal(features.pooled, extract(tmp_path / "other").pooled)


def test_a_damaged_part_is_written_again(tmp_path):
    features = extract(tmp_path)
    part = tmp_path / "00002.npz"
    part.write_bytes(part.read_bytes()[:100])
    (tmp_path / "00003.npz").unlink()
    np.testing.assert_array_equal(extract(tmp_path).pooled, features.pooled)


@pytest.mark.parametrize(
    ("network", "key", "facts"),
    [
        (CORNER, {**KEY, "pictures": "others"}, "pictures 'seventy'.*'others'"),
        (FeatureNetwork("corner", "the first pixel", 3, "clean", "abc", look_at_corner), KEY, "resize 'none'"),
        (FeatureNetwork("corner", "the first pixel", 3, "none", "def", look_at_corner), KEY, "sha256 'abc'"),
    ],
)
def test_features_of_other_images_or_another_network_are_refused(tmp_path, network, key, facts):
    extract(tmp_path)
    with pytest.raises(UserError, match=facts):
        extract(tmp_path, network, key)


def test_an_image_with_features_that_are_not_numbers_is_named(tmp_path):
    def divide(weights, images):
        return Features(1 / images[:, 0, 0, :].astype(jnp.float32))

    broken = FeatureNetwork("broken", "a broken one", 3, "none", "", divide)
    black = np.maximum(IMAGES, 1)
    black[41, 0, 0, 1] = 0
    with pytest.raises(UserError, match=r"1 of 20 .*\b41\b"):
        extract(tmp_path, broken, read=lambda number: black[number])


def test_no_images_are_refused(tmp_path):
    with pytest.raises(UserError):
        extract_in_parts(CORNER, tmp_path, KEY, 0, read)
