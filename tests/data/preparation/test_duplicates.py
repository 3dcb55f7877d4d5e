"""Repetitions by equality and by looks."""

import numpy as np
import pytest
from PIL import Image

from imagen_jax.data.preparation.duplicates import COMMON, alike, repeated
from imagen_jax.data.preparation.image_files import EDGES, LOOKS, hash_looks
from tests.data.part_sources import draw_smooth


def test_of_equal_rows_the_first_stays():
    rows = np.array([[1, 2], [3, 4], [1, 2], [2, 1], [3, 4], [1, 2]], np.uint8)
    assert repeated(rows).tolist() == [-1, -1, 0, -1, 1, 0]
    assert repeated(rows[:0]).tolist() == []


def looks_of(*images):
    return np.stack([np.frombuffer(hash_looks(np.asarray(image, np.uint8)), np.uint8) for image in images])


def test_a_copy_is_alike_and_the_same_shape_in_another_colour_is_not():
    image = draw_smooth(0)
    smaller = Image.fromarray(image).resize((100, 75), Image.Resampling.BOX)
    brighter = np.minimum(image.astype(int) + [40, 0, 0], 255)
    assert alike(looks_of(image, draw_smooth(1), smaller, brighter)).tolist() == [-1, -1, 0, -1]


def test_images_without_contrast_are_compared_with_none():
    assert alike(looks_of(np.full((20, 20, 3), 255), np.full((20, 20, 3), 255))).tolist() == [-1, -1]


@pytest.mark.parametrize("bits", [0, 1, 7, 8, 40])
def test_edges_that_differ_in_up_to_seven_bits_are_alike_wherever_they_are(bits):
    generator = np.random.default_rng(bits)
    looks = generator.integers(0, 256, (50, LOOKS), np.uint8)
    copies = looks.copy()
    for copy in copies:
        for bit in generator.choice(8 * EDGES, bits, replace=False):
            copy[bit // 8] ^= 1 << (bit % 8)
    found = alike(np.concatenate([looks, copies]))
    assert (found[:50] == -1).all() and found[50:].tolist() == [n if bits <= 7 else -1 for n in range(50)]


def test_a_band_that_many_share_costs_nothing_and_finds_nothing():
    generator = np.random.default_rng(0)
    looks = generator.integers(0, 256, (COMMON + 1, LOOKS), np.uint8)
    looks[:, :4] = 7
    assert (alike(looks) == -1).all()
