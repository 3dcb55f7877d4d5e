"""A folder of prepared data that the tests of one worker share, and a small folder of a user's own images."""

import jax
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


@pytest.fixture(scope="session", autouse=True)
def compilation_cache(tmp_path_factory):
    """Keeps compiled programs, as the command lines do: a run that is cut and resumed compiles the same ones thrice."""
    keep = {
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("compiled")),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
    }
    before = {name: getattr(jax.config, name) for name in keep}
    for name, value in keep.items():
        jax.config.update(name, value)
    yield
    for name, value in before.items():
        jax.config.update(name, value)
