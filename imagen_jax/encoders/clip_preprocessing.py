"""How pictures come to CLIP: resized with Pillow on the host, scaled on the device.

uint8, any size -> shorter side to 224 pixels, bicubic -> middle 224×224, uint8 -> less mean, over deviation
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt8
from PIL import Image

from imagen_jax.array_types import Images
from imagen_jax.encoders.feature_network import Picture

MEAN = (0.48145466, 0.4578275, 0.40821073)
DEVIATION = (0.26862954, 0.26130258, 0.27577711)
"""Of red, green and blue in CLIP's training data, in [0, 1]: constants of its published code."""


def resize_and_crop(picture: Picture, resolution: int) -> UInt8[np.ndarray, "resolution resolution 3"]:
    """The middle square of a picture whose shorter side was resized to ``resolution`` pixels.

    Where as many pixels can't be cut off on both sides, one more is cut off right or below.
    """
    height, width = picture.shape[:2]
    short = min(height, width)
    size = (resolution * width // short, resolution * height // short)
    resized = np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC))
    top, left = ((side - resolution) // 2 for side in resized.shape[:2])
    return resized[top : top + resolution, left : left + resolution]


def normalise(pictures: UInt8[Array, "batch height width 3"]) -> Images:
    """Pictures of 8 bits as the image tower wants them."""
    mean, deviation = (jnp.asarray(values)[None, None, None] for values in (MEAN, DEVIATION))
    return (pictures / 255.0 - mean) / deviation
