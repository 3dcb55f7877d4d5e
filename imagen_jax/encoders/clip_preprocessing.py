"""Prepares images for CLIP: resizes them with Pillow on the host, and normalises them on the device.

uint8, any size -> shorter side to 224 pixels, bicubic -> middle 224×224, uint8 -> minus mean, divided by deviation
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt8
from PIL import Image

from imagen_jax.array_types import HostPixels, Images

MEAN = (0.48145466, 0.4578275, 0.40821073)
DEVIATION = (0.26862954, 0.26130258, 0.27577711)
"""Mean and standard deviation of red, green and blue in CLIP's training data, for values in [0, 1], from its code."""


def resize_and_crop(image: HostPixels, resolution: int) -> UInt8[np.ndarray, "resolution resolution 3"]:
    """Resizes the shorter side of an image to ``resolution`` pixels and returns the middle square.

    If an odd number of pixels must be cropped, the right or lower side loses one more.
    """
    height, width = image.shape[:2]
    short = min(height, width)
    size = (resolution * width // short, resolution * height // short)
    resized = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))
    top, left = ((side - resolution) // 2 for side in resized.shape[:2])
    return resized[top : top + resolution, left : left + resolution]


def normalise(images: UInt8[Array, "batch height width 3"]) -> Images:
    """Scales uint8 images to [0, 1] and normalises them with CLIP's mean and deviation."""
    mean, deviation = (jnp.asarray(values)[None, None, None] for values in (MEAN, DEVIATION))
    return (images / 255.0 - mean) / deviation
