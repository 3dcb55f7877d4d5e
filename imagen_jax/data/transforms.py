"""What a stored image goes through on its way into a batch, in three steps, so that the first can be remembered.

prepare: stored image -> pixels at the stage's resolution     one example, deterministic; the only costly step
vary:    pixels, generator -> pixels, such as a random crop   one example; the only random step, where there is one
finish:  stacked pixels -> arrays of the batch                deterministic, the same for every example
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from imagen_jax.array_types import HostPixels
from imagen_jax.data.pixels import SquarePixels, crop_centre_square, decode_pixels, resize_area, to_image, to_pixels
from imagen_jax.data.stored_images import StoredImage
from imagen_jax.errors import UserError

PixelsOfBatch = UInt8[np.ndarray, "batch height width 3"]


class PreparedImage(NamedTuple):
    """One example, decoded and at the stage's resolution, still in whole numbers: a quarter of the memory of floats.

    Attributes:
        key: its name in its source.
        captions: what it shows, once or more.
        pixels: the image.
    """

    key: str
    captions: tuple[str, ...]
    pixels: HostPixels


@dataclass(frozen=True)
class Transform:
    """The three steps; functions that worker processes can be sent.

    Attributes:
        prepare: decodes and resizes.
        vary: its randomness comes from the generator that it is given; None where nothing is random.
        finish: makes the arrays that the stage trains on.
    """

    prepare: Callable[[StoredImage], PreparedImage]
    vary: Callable[[HostPixels, np.random.Generator], SquarePixels] | None
    finish: Callable[[PixelsOfBatch], dict[str, np.ndarray]]


def make_example(resolution: int) -> Transform:
    """Makes ``{"image"}``: float32 in [-1, 1], ``resolution`` high and wide.

    A larger stored image is made smaller by exact area means and rounded to 8 bits, as if it had been stored so.

    Args:
        resolution: height and width, at most that of the stored images.
    """
    return Transform(partial(prepare_image, resolution=resolution), None, finish_example)


def make_super_resolution_example(low_resolution: int, resolution: int, crop: int | None = None) -> Transform:
    """Makes ``{"image", "low_res"}``: an image and its exact area means, both float32 in [-1, 1].

    Args:
        low_resolution: height and width of ``low_res`` when nothing is cropped.
        resolution: height and width of the whole image, a multiple of ``low_resolution``.
        crop: height and width of a random crop of ``image``, for training; a multiple of the ratio of both. The crop
            lies on the grid of the low resolution, so ``low_res`` (``crop / ratio`` pixels) is its exact area mean.

    Raises:
        UserError: the sizes do not fit each other.
    """
    factor = resolution // low_resolution
    if factor < 2 or resolution % low_resolution:
        raise UserError(
            f"a super-resolution stage from {low_resolution} to {resolution} px is not possible: "
            "make the resolution 2, 3, 4… times the low resolution"
        )
    if crop is not None and not (crop % factor == 0 and factor <= crop <= resolution):
        raise UserError(f"the crop of {crop} px does not fit: choose a multiple of {factor} up to {resolution}")

    return Transform(
        prepare=partial(prepare_image, resolution=resolution),
        vary=None if crop is None else partial(crop_on_grid, size=crop, grid=factor),
        finish=partial(finish_super_resolution_example, factor=factor),
    )


def prepare_image(stored: StoredImage, resolution: int) -> PreparedImage:
    """Decodes a stored image, crops its centre square, and makes that ``resolution`` high and wide."""
    pixels = crop_centre_square(decode_pixels(stored.encoded, resolution))
    if pixels.shape[:2] != (resolution, resolution):
        pixels = to_pixels(resize_area(to_image(pixels), resolution))
    return PreparedImage(stored.key, stored.captions, pixels)


def crop_on_grid(pixels: HostPixels, generator: np.random.Generator, size: int, grid: int) -> SquarePixels:
    """Cuts out a random square of ``size`` pixels whose corner lies on a multiple of ``grid``."""
    places = (len(pixels) - size) // grid + 1
    top, left = grid * generator.integers(places, size=2)
    return pixels[top : top + size, left : left + size]


def finish_example(pixels: PixelsOfBatch) -> dict[str, np.ndarray]:
    """The arrays of a base stage."""
    return {"image": to_image(pixels)}


def finish_super_resolution_example(pixels: PixelsOfBatch, factor: int) -> dict[str, np.ndarray]:
    """The arrays of a stage that makes images ``factor`` times as high and wide."""
    image = to_image(pixels)
    return {"image": image, "low_res": resize_area(image, image.shape[1] // factor)}
