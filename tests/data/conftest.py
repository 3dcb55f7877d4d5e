"""Small stored images and a small folder of captioned files."""

import io

import numpy as np
import pytest
from PIL import Image

from imagen_jax.data.stored_images import StoredImage

NAMES = ("apple", "bear", "cat", "dog", "elk", "fox", "goat", "hen", "ibis", "jay")


def noise(seed: int, size: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)


def png_of(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.fixture(scope="session")
def stored_images() -> list[StoredImage]:
    """Ten images of 16 px, each of other noise."""
    return [StoredImage(f"key-{name}", (f"a {name}",), png_of(noise(seed, 16))) for seed, name in enumerate(NAMES)]


@pytest.fixture
def image_folder(tmp_path):
    """Ten images of 24 px with captions, one of them in a subfolder."""
    folder = tmp_path / "images"
    (folder / "more").mkdir(parents=True)
    for seed, name in enumerate(NAMES):
        parent = folder / "more" if name == "jay" else folder
        Image.fromarray(noise(seed, 24)).save(parent / f"{name}.png")
        (parent / f"{name}.txt").write_text(f"a {name}\nits second line\n", encoding="utf-8")
    return folder
