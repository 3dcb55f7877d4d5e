"""How pictures come to Inception's size: three ways, by the names that clean-fid gives them.

    legacy_tensorflow   uint8 -> device: bilinear of TensorFlow 1 ----------> (x - 128) / 128
    legacy_pytorch      uint8 -> device: bilinear of PyTorch ---------------> 2 x / 255 - 1
    clean               uint8 -> host: bicubic of Pillow, antialiased ------> (x - 128) / 128

The first is that of the code FID was published with (Heusel et al. 2017), which hands TensorFlow's graph the pictures
as they are; torch-fidelity, StyleGAN's metrics and guided diffusion's evaluator follow it. The second is pytorch-fid's.
Both skip pixels of pictures larger than the network's, which shows in the numbers (Parmar, Zhang & Zhu 2022); the
third, theirs, does not. Numbers of one way don't compare with those of another.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Num, UInt8
from PIL import Image

from imagen_jax.encoders.feature_network import Picture, prepare_nothing

Pictures = UInt8[Array, "batch height width 3"]
NetworkImages = Float[Array, "batch size size 3"]
Places = Float32[np.ndarray, " places"]


class Resize(NamedTuple):
    """A way to resize.

    Attributes:
        prepare: ``prepare(picture, size)``: what is done on the host, of one picture.
        finish: ``finish(pictures, size)``: what is done on the device of a batch of them; the images are in [-1, 1].
    """

    prepare: Callable[[Picture, int], np.ndarray]
    finish: Callable[[Num[Array, "batch height width 3"], int], NetworkImages]


def nothing_yet(picture: Picture, size: int) -> np.ndarray:
    """The picture as it is; its size changes on the device."""
    return prepare_nothing(picture)


def resize_clean(picture: Picture, size: int) -> Float32[np.ndarray, "size size 3"]:
    """Pillow's bicubic of each channel in float32, which antialiases; 0…255, and not rounded."""
    channels = [
        np.asarray(Image.fromarray(channel).resize((size, size), Image.Resampling.BICUBIC))
        for channel in np.moveaxis(picture.astype(np.float32), -1, 0)
    ]
    return np.clip(np.stack(channels, axis=-1), 0, 255)


def centre(pictures: Float[Array, "batch height width 3"]) -> Float[Array, "batch height width 3"]:
    """0…255 to [-1, 1), 128 to zero, as the graph does it that FID was published with."""
    return (pictures - 128.0) / 128.0


def resize_like_tensorflow(pictures: Pictures, size: int) -> NetworkImages:
    """TensorFlow 1's bilinear: corners of pixels, not centres, keep their places, and nothing is antialiased."""

    def places(length: int) -> Places:
        return np.arange(size, dtype=np.float32) * np.float32(length / size)

    return centre(interpolate(pictures.astype(jnp.float32), places))


def resize_like_pytorch(pictures: Pictures, size: int) -> NetworkImages:
    """PyTorch's bilinear without aligned corners: centres of pixels keep their places, and nothing is antialiased."""

    def places(length: int) -> Places:
        centres = np.arange(size, dtype=np.float32) + np.float32(0.5)
        return np.maximum(centres * np.float32(length / size) - np.float32(0.5), np.float32(0))

    return 2.0 * interpolate(pictures.astype(jnp.float32) / 255.0, places) - 1.0


def interpolate(pictures: Float[Array, "batch height width 3"], places: Callable[[int], Places]) -> NetworkImages:
    """Linear interpolation across, then down, between the two pixels around each place.

    Args:
        pictures: of any size.
        places: from a length to where in it the new pixels lie; beyond its last pixel it is like the last.
    """
    for axis in (2, 1):
        wanted = places(pictures.shape[axis])
        before = np.floor(wanted)
        # Of the place as float32 has it, as both libraries take it.
        fraction = np.expand_dims(wanted - before, tuple(other for other in range(4) if other != axis))
        indices = before.astype(np.int32)
        first, second = (jnp.take(pictures, index, axis=axis, mode="clip") for index in (indices, indices + 1))
        pictures = first + (second - first) * fraction
    return pictures


RESIZES = {
    "legacy_tensorflow": Resize(nothing_yet, resize_like_tensorflow),
    "legacy_pytorch": Resize(nothing_yet, resize_like_pytorch),
    "clean": Resize(resize_clean, lambda pictures, size: centre(pictures)),
}
