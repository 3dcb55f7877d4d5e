"""Resizes images to the size of Inception in three ways, under the names that clean-fid uses.

    legacy_tensorflow   uint8 -> device: bilinear of TensorFlow 1 ----------> (x - 128) / 128
    legacy_pytorch      uint8 -> device: bilinear of PyTorch ---------------> 2 x / 255 - 1
    clean               uint8 -> host: bicubic of Pillow, antialiased ------> (x - 128) / 128

The first is the resizing of the original FID code (Heusel et al. 2017), which passes unresized images to TensorFlow's
graph. torch-fidelity, StyleGAN's metrics and guided diffusion's evaluator follow it. The second is pytorch-fid's. Both
skip pixels when they shrink an image, which changes the numbers (Parmar, Zhang & Zhu 2022). The third is the method of
that paper, which uses all pixels. Numbers are comparable only with the same resizing.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Num, UInt8
from PIL import Image

from imagen_jax.array_types import HostPixels
from imagen_jax.encoders.feature_network import prepare_nothing

Uint8Images = UInt8[Array, "batch height width 3"]
NetworkImages = Float[Array, "batch size size 3"]
Positions = Float32[np.ndarray, " positions"]


class Resize(NamedTuple):
    """A way to resize images.

    Attributes:
        prepare: ``prepare(image, size)``, the step for one image on the host.
        finish: ``finish(images, size)``, the step for a batch on the device. It returns images in [-1, 1].
    """

    prepare: Callable[[HostPixels, int], np.ndarray]
    finish: Callable[[Num[Array, "batch height width 3"], int], NetworkImages]


def nothing_yet(image: HostPixels, size: int) -> np.ndarray:
    """Returns the image unchanged, because it is resized on the device."""
    return prepare_nothing(image)


def resize_clean(image: HostPixels, size: int) -> Float32[np.ndarray, "size size 3"]:
    """Resizes each channel in float32 with Pillow's antialiased bicubic filter. Returns 0…255, not rounded."""
    channels = [
        np.asarray(Image.fromarray(channel).resize((size, size), Image.Resampling.BICUBIC))
        for channel in np.moveaxis(image.astype(np.float32), -1, 0)
    ]
    return np.clip(np.stack(channels, axis=-1), 0, 255)


def centre(images: Float[Array, "batch height width 3"]) -> Float[Array, "batch height width 3"]:
    """Maps 0…255 to [-1, 1) and 128 to zero, as the graph of the original FID code does."""
    return (images - 128.0) / 128.0


def resize_like_tensorflow(images: Uint8Images, size: int) -> NetworkImages:
    """Resizes bilinearly like TensorFlow 1 (``half_pixel_centers=False``): aligns pixel corners, no antialiasing."""

    def positions(length: int) -> Positions:
        return np.arange(size, dtype=np.float32) * np.float32(length / size)

    return centre(interpolate(images.astype(jnp.float32), positions))


def resize_like_pytorch(images: Uint8Images, size: int) -> NetworkImages:
    """Resizes bilinearly like PyTorch (``align_corners=False``): uses half-pixel centres, no antialiasing."""

    def positions(length: int) -> Positions:
        centres = np.arange(size, dtype=np.float32) + np.float32(0.5)
        return np.maximum(centres * np.float32(length / size) - np.float32(0.5), np.float32(0))

    return 2.0 * interpolate(images.astype(jnp.float32) / 255.0, positions) - 1.0


def interpolate(images: Float[Array, "batch height width 3"], positions: Callable[[int], Positions]) -> NetworkImages:
    """Interpolates linearly along the width, then the height, between the two pixels around each position.

    Args:
        images: images of any size.
        positions: maps the length of an axis to the positions of the new pixels on it. Positions after the last pixel
            take its value.
    """
    for axis in (2, 1):
        wanted = positions(images.shape[axis])
        before = np.floor(wanted)
        # The fraction of the position in float32, as in both libraries.
        fraction = np.expand_dims(wanted - before, tuple(other for other in range(4) if other != axis))
        indices = before.astype(np.int32)
        first, second = (jnp.take(images, index, axis=axis, mode="clip") for index in (indices, indices + 1))
        images = first + (second - first) * fraction
    return images


RESIZES = {
    "legacy_tensorflow": Resize(nothing_yet, resize_like_tensorflow),
    "legacy_pytorch": Resize(nothing_yet, resize_like_pytorch),
    "clean": Resize(resize_clean, lambda images, size: centre(images)),
}
