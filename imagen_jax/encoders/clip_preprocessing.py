"""Prepares images for CLIP: resizes them with Pillow on the host, and normalises them on the device.

uint8, any size -> shorter side to 224 pixels, bicubic -> middle 224×224, uint8 -> minus mean, divided by deviation

The description of a CLIP says which of these it needs (``clip.description``).
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt8
from PIL import Image

from imagen_jax.array_types import HostPixels, Images
from imagen_jax.clip.description import INTERPOLATIONS, OPENAI_DEVIATION, OPENAI_MEAN


def resize_and_crop(
    image: HostPixels, resolution: int, interpolation: str = "bicubic", resize: str = "shortest"
) -> UInt8[np.ndarray, "resolution resolution 3"]:
    """Resizes an image to a square.

    Args:
        image: the image.
        resolution: the side of the square, in pixels.
        interpolation: a key of ``description.INTERPOLATIONS``.
        resize: "shortest" resizes the shorter side to ``resolution`` and crops the middle; if an odd number of pixels
            must be cropped, the right or lower side loses one more. "squash" resizes both sides.
    """
    height, width = image.shape[:2]
    short = min(height, width)
    size = (resolution * width // short, resolution * height // short)
    if resize == "squash":
        size = (resolution, resolution)
    method = Image.Resampling[INTERPOLATIONS[interpolation]]
    resized = np.asarray(Image.fromarray(image).resize(size, method))
    top, left = ((side - resolution) // 2 for side in resized.shape[:2])
    return resized[top : top + resolution, left : left + resolution]


def normalise(
    images: UInt8[Array, "batch height width 3"],
    mean: Sequence[float] = OPENAI_MEAN,
    deviation: Sequence[float] = OPENAI_DEVIATION,
) -> Images:
    """Scales uint8 images to [0, 1], subtracts the mean of each colour and divides by its deviation."""
    centre, scale = (jnp.asarray(values, jnp.float32)[None, None, None] for values in (mean, deviation))
    return (images / 255.0 - centre) / scale
