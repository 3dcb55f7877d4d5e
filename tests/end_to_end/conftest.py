"""A folder of prepared data that the tests of one worker share, and a small folder of a user's own images."""

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="session")
def own_images(tmp_path_factory):
    """Forty squares and bars of random colours, with captions that say which."""
    folder = tmp_path_factory.mktemp("own_images")
    generator = np.random.default_rng(0)
    for number in range(40):
        pixels = np.full((40, 40, 3), 255, np.uint8)
        shape = "square" if number % 2 else "bar"
        rows = slice(10, 30) if shape == "square" else slice(17, 23)
        pixels[rows, 8:32] = generator.integers(0, 200, 3)
        Image.fromarray(pixels).save(folder / f"{number:02d}.png")
        (folder / f"{number:02d}.txt").write_text(f"{shape} number {number}\n")
    return folder
