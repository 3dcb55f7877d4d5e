"""Images: pixels, files and grids."""

import re

import numpy as np
import pytest
from PIL import Image

from imagen_jax.cascade.image_files import file_name, labelled_grid, read_png_metadata, save_png, to_pixels
from imagen_jax.errors import UserError


def test_pixels_are_the_nearest_of_256_levels():
    levels = np.arange(256)
    images = (levels / 127.5 - 1).astype(np.float32)[:, None, None].repeat(3, axis=2)
    np.testing.assert_array_equal(to_pixels(images)[:, 0, 0], levels)
    extremes = np.asarray([-7.0, -1.0, 0.0, 1.0, 7.0], np.float32)[:, None, None].repeat(3, axis=2)
    assert to_pixels(extremes)[:, 0, 0].tolist() == [0, 0, 128, 255, 255]


def test_a_png_keeps_pixels_and_metadata_in_any_script(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    metadata = {"prompt": "红苹果 🍎 café", "seed": "3"}
    save_png(tmp_path / "a.png", pixels, metadata)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a.png")), pixels)
    assert read_png_metadata(tmp_path / "a.png") == metadata
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_a_missing_folder_is_an_error(tmp_path):
    with pytest.raises(UserError, match=re.escape(str(tmp_path))):
        save_png(tmp_path / "none" / "a.png", np.zeros((2, 2, 3), np.uint8), {})


@pytest.mark.parametrize("prompt", ["red apple", "../../etc/passwd", "日本語", "a\x00b\n", "x" * 999, "🍎", "CON", ""])
def test_file_names_are_safe(prompt):
    name = file_name(prompt, 3, 0)
    assert name.isascii() and name.isprintable() and "/" not in name and not name.startswith(".") and len(name) < 120
    assert name.endswith("-seed3-0")


def test_file_names_differ_by_prompt():
    prompts = ["red apple", "red-apple", "Red apple", "りんご", "リンゴ", "y" * 100, "y" * 101]
    assert len({file_name(prompt, 0, 0) for prompt in prompts}) == len(prompts)
    assert len({file_name("a", seed, index) for seed in (0, 1) for index in (0, 1)}) == 4


def test_a_grid_contains_every_image_enlarged_and_in_order():
    shades = np.asarray([10, 90, 170], np.uint8)
    images = np.broadcast_to(shades[:, None, None, None], (3, 32, 32, 3)).copy()
    grid = labelled_grid(images, ["one", "two", "a very long caption that can never fit under its image"], 2)
    areas = [int((grid == shade).all(axis=2).sum()) for shade in shades]
    assert min(areas) >= 128 * 128, "a 32-px image is shown four times as large"
    rows, columns = zip(*[np.argwhere((grid == shade).all(axis=2)).mean(axis=0) for shade in shades], strict=True)
    assert rows[0] == pytest.approx(rows[1], abs=2) and rows[2] > rows[0] + 100
    assert columns[1] > columns[0] + 100 and columns[2] == pytest.approx(columns[0], abs=3)
    assert (grid[0] == 255).all() and (grid[:, -1] == 255).all()


def test_labels_stay_within_their_image():
    image = np.full((1, 128, 128, 3), 200, np.uint8)
    labels = ["incomprehensibilities" * 3, "incomprehensibilities " * 2 + "a", "word " * 40, "紅蘋果" * 40, "W" * 9999]
    for label in labels:
        ink = (labelled_grid(image, [label], 1) < 128).all(axis=2)
        columns = np.flatnonzero(ink.any(axis=0))
        assert ink.any() and columns.min() >= 11 and columns.max() <= 12 + 128


def test_a_row_is_no_wider_than_its_images():
    images = np.zeros((2, 128, 128, 3), np.uint8)
    assert labelled_grid(images, ["a", "b"], 8).shape == labelled_grid(images, ["a", "b"], 2).shape


def test_accents_that_the_font_lacks_are_left_out_of_labels_and_names():
    image = np.full((1, 128, 128, 3), 200, np.uint8)
    np.testing.assert_array_equal(labelled_grid(image, ["café"], 1), labelled_grid(image, ["cafe"], 1))
    assert file_name("Crème brûlée", 0, 0).startswith("creme_brulee-")
