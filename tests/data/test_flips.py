"""Mirrored images, and those that must not be."""

import numpy as np
import pytest

from imagen_jax.data.batches import make_batches
from imagen_jax.data.flips import may_mirror
from imagen_jax.data.stored_images import StoredImage
from imagen_jax.data.transforms import make_example, make_super_resolution_example
from tests.data.conftest import noise, png_of


@pytest.mark.parametrize(
    ("caption", "allowed"),
    [
        ("a red apple", True),
        ("a copyright-free photo of a brightly lit street", True),
        ("a man to the LEFT of a car", False),
        ("a right-handed player", False),
        ('a shop that says "open"', False),
        ("letters on a wall", False),
        ("a stop sign", False),
    ],
)
def test_captions_that_a_mirror_would_make_false_forbid_it(caption, allowed):
    assert may_mirror(caption) == allowed


def images(caption):
    return [StoredImage(f"key-{seed}", caption, png_of(noise(seed, 16))) for seed in range(40)]


def test_half_of_the_images_are_mirrored_and_the_same_ones_again():
    def read(captions, mirror):
        return next(make_batches(images(captions), make_example(16), 40, seed=3, shuffle=False, mirror=mirror))["image"]

    plain, mirrored = read(("a cat",), False), read(("a cat",), True)
    turned = [np.array_equal(one, other[:, ::-1]) for one, other in zip(plain, mirrored, strict=True)]
    kept = [np.array_equal(one, other) for one, other in zip(plain, mirrored, strict=True)]
    assert 10 < sum(turned) < 30 and sum(turned) + sum(kept) == 40
    assert np.array_equal(read(("a cat",), True), mirrored)
    assert np.array_equal(read(("a cat", "a cat on the left"), True), plain), "one caption is enough"


@pytest.mark.parametrize("transform", [make_example(16), make_super_resolution_example(8, 16, crop=8)])
def test_a_batch_says_which_images_are_mirrored(transform):
    captioned = images(("a cat",))[:30] + images(("a cat on the left",))[30:]

    def read(mirror, **options):
        return next(make_batches(captioned, transform, 40, seed=3, shuffle=False, mirror=mirror, **options))

    plain, mirrored = read(False), read(True)
    assert plain["mirrored"].dtype == mirrored["mirrored"].dtype == np.bool_
    assert plain["mirrored"].shape == (40,) and not plain["mirrored"].any()
    for name in plain.keys() & {"image", "low_res"}:
        turned = [np.array_equal(one, other[:, ::-1]) for one, other in zip(plain[name], mirrored[name], strict=True)]
        np.testing.assert_array_equal(turned, mirrored["mirrored"])
    assert mirrored["mirrored"][:30].any() and not mirrored["mirrored"][30:].any()
    np.testing.assert_array_equal(read(True, num_workers=1)["mirrored"], mirrored["mirrored"])


def test_mirroring_follows_the_position_as_before():
    # As in the first release: the second jump of the position's generator, below one half.
    batch = next(make_batches(images(("a cat",)), make_example(16), 40, seed=3, shuffle=False, mirror=True))
    draws = [np.random.Generator(np.random.Philox(key=[3, position]).jumped(2)).random() for position in range(40)]
    np.testing.assert_array_equal(batch["mirrored"], np.array(draws) < 0.5)


def test_both_sizes_of_a_super_resolution_pair_are_mirrored():
    transform = make_super_resolution_example(8, 16, crop=8)
    batch = next(make_batches(images(("a cat",)), transform, 40, seed=3, mirror=True))
    means = batch["image"].reshape(40, 4, 2, 4, 2, 3).mean(axis=(2, 4))
    np.testing.assert_allclose(batch["low_res"], means, atol=1e-6)
