import io

import numpy as np
import pytest
from PIL import Image

from imagen_jax.data.transforms import make_example, make_super_resolution_example
from imagen_jax.errors import UserError


def run(transform, stored, seed=0):
    """One example through all steps, as a batch of one."""
    pixels = transform.prepare(stored).pixels
    if transform.vary is not None:
        pixels = transform.vary(pixels, np.random.default_rng(seed))
    return {name: array[0] for name, array in transform.finish(pixels[None]).items()}


def pixels_of(stored) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(stored.encoded)))


def test_an_image_at_its_own_resolution_is_what_was_stored(stored_images):
    image = run(make_example(16), stored_images[0])["image"]
    assert image.dtype == np.float32
    np.testing.assert_allclose(image, pixels_of(stored_images[0]) / 127.5 - 1, atol=1e-6)


def test_a_smaller_example_holds_block_means_to_the_nearest_byte(stored_images):
    means = pixels_of(stored_images[1]).reshape(8, 2, 8, 2, 3).mean((1, 3))
    image = run(make_example(8), stored_images[1])["image"]
    assert np.abs((image + 1) * 127.5 - means).max() <= 0.5 + 1e-4


def test_key_and_caption_come_along(stored_images):
    prepared = make_example(8).prepare(stored_images[2])
    assert (prepared.key, prepared.captions) == ("key-cat", ("a cat",))


def test_a_larger_example_than_stored_is_refused(stored_images):
    with pytest.raises(UserError, match=r"\b16×16\b.*\b32\b"):
        run(make_example(32), stored_images[0])


def test_low_res_is_the_exact_mean_of_the_image(stored_images):
    example = run(make_super_resolution_example(4, 16), stored_images[3])
    assert example["image"].shape == (16, 16, 3)
    means = example["image"].astype(np.float64).reshape(4, 4, 4, 4, 3).mean((1, 3))
    np.testing.assert_allclose(example["low_res"], means, atol=1e-6)


def test_a_crop_and_its_low_res_are_at_the_same_position_of_the_whole(stored_images):
    whole = run(make_super_resolution_example(8, 16), stored_images[4])
    transform = make_super_resolution_example(8, 16, crop=6)
    corners = set()
    for seed in range(200):
        crop = run(transform, stored_images[4], seed)
        # The noise is unique, so the crop is found wherever it is.
        windows = np.lib.stride_tricks.sliding_window_view(whole["image"], (6, 6, 3))[:, :, 0]
        ((top, left),) = np.argwhere((windows == crop["image"]).all((2, 3, 4)))
        assert top % 2 == left % 2 == 0
        low = whole["low_res"][top // 2 : top // 2 + 3, left // 2 : left // 2 + 3]
        np.testing.assert_allclose(crop["low_res"], low, atol=1e-6)
        corners.add((int(top), int(left)))
    assert corners == {(top, left) for top in range(0, 11, 2) for left in range(0, 11, 2)}


def test_the_generator_decides_the_crop(stored_images):
    transform = make_super_resolution_example(8, 16, crop=4)
    first, again, other = (run(transform, stored_images[0], seed)["image"] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize(
    ("sizes", "facts"),
    [
        ((12, 16), r"\b12 .*\b16\b"),
        ((16, 16), r"\b16 .*\b16\b"),
        ((8, 16, 5), r"crop.*\b5\b.*\b2\b.*\b16\b"),
        ((8, 16, 18), r"crop.*\b18\b.*\b2\b.*\b16\b"),
        ((8, 16, 0), r"crop.*\b0\b.*\b2\b.*\b16\b"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(sizes, facts):
    with pytest.raises(UserError, match=facts):
        make_super_resolution_example(*sizes)
