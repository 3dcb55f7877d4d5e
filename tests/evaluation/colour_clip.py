"""A network of images and texts that knows three colours, and splits of plain images for it."""

import io
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from imagen_jax.data.stored_images import StoredImage
from imagen_jax.encoders.feature_network import FeatureNetwork, Features
from imagen_jax.evaluation.protocols.references import Reference

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


def extract(weights: None, images: jax.Array) -> Features:
    return Features(images.astype(jnp.float32).mean(axis=(1, 2)) / 255 + 0.01)


class ColourClip:
    """Embeds an image as its mean colour, and a text as the sum of the colours in it."""

    name = "colours"
    image = FeatureNetwork("colours", "Three colours", 3, "none", "ab12", extract)
    logit_scale = 10.0

    def __init__(self) -> None:
        self.encoded: list[str] = []

    def encode_texts(self, captions: Sequence[str]) -> np.ndarray:
        self.encoded += captions
        rows = [sum(np.asarray(rgb) for name, rgb in COLOURS.items() if name in text) for text in captions]
        return np.stack([np.asarray(row) + np.zeros(3) for row in rows]).astype(np.float32) / 255 + np.float32(0.01)


def png_of(colour: str, shade: int) -> bytes:
    """An image of a colour with some of the others, 8 px."""
    pixels = np.full((8, 8, 3), shade, np.uint8)
    pixels[..., COLOURS[colour].index(255)] = 255 - shade
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def make_reference(colours: Sequence[str], shades: Sequence[int], name: str = "colours, validation") -> Reference:
    """A split whose images are in folders of their colours, as captions say; a shade above 127 belies them."""
    stored = [
        StoredImage(f"{colour}/{number}.png", (f"{colour} {number}",), png_of(colour, shade))
        for number, (colour, shade) in enumerate(zip(colours, shades, strict=True))
    ]
    return Reference(name, "ab12", [one.captions for one in stored], stored.__getitem__)
