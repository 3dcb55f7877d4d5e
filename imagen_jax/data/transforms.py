"""Transforms a stored image into an element of a batch, in four steps. The result of the first can be cached.

prepare: stored image -> pixels at the stage's resolution     one example, deterministic; the only costly step
vary:    pixels, generator -> pixels, such as a random crop   one example; random, optional
finish:  stacked pixels -> arrays of the batch                deterministic, the same for every example
degrade: stacked pixels, generators -> arrays of the batch    random, optional; replaces arrays of finish
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from imagen_jax.array_types import HostPixels
from imagen_jax.data.degradations import degrade
from imagen_jax.data.pixels import (
    SquarePixels,
    crop_centre_square,
    decode_pixels,
    resize_area,
    resize_shorter_side,
    to_image,
    to_pixels,
    with_channels,
)
from imagen_jax.data.stored_images import StoredImage
from imagen_jax.errors import UserError, lookup

PixelsOfBatch = UInt8[np.ndarray, "batch height width 3"]
Vary = Callable[[HostPixels, np.random.Generator], SquarePixels]
Degrade = Callable[[PixelsOfBatch, Sequence[np.random.Generator]], dict[str, np.ndarray]]


class PreparedImage(NamedTuple):
    """One example, decoded and at the stage's resolution, as uint8: a quarter of the memory of float32.

    Attributes:
        key: its name in its source.
        captions: one or more captions.
        pixels: the image, uint8.
    """

    key: str
    captions: tuple[str, ...]
    pixels: HostPixels


@dataclass(frozen=True)
class Transform:
    """The four steps, as functions that can be pickled for worker processes.

    Attributes:
        prepare: decodes and resizes.
        vary: random step, which uses only the generator that it receives; None if nothing is random.
        finish: makes the arrays that the stage trains on.
        degrade: makes random arrays from the same pixels, and replaces those of ``finish``; it uses only the generators
            that it receives, one for each example. None if it is left out.
    """

    prepare: Callable[[StoredImage], PreparedImage]
    vary: Vary | None
    finish: Callable[[PixelsOfBatch], dict[str, np.ndarray]]
    degrade: Degrade | None = None


def make_example(resolution: int, square: str = "centre", channels: int = 3) -> Transform:
    """Makes the transform to ``{"image"}``: float32 in [-1, 1], ``resolution`` high and wide.

    A larger stored image is downscaled by exact area means and rounded to 8 bits, as if it had been stored at that
    size.

    Args:
        resolution: height and width, at most that of the stored images.
        square: how an image becomes square, a key of ``SQUARES``.
        channels: 3 for RGB, 1 for grey.

    Raises:
        UserError: ``square`` is unknown, or there are no images of so many channels.
    """
    check_channels(channels)
    prepare, vary = lookup(SQUARES, square, "data.crop")
    return Transform(partial(prepare, resolution=resolution), vary, partial(finish_example, channels=channels))


def make_keys() -> Transform:
    """Makes the transform to no arrays, for what is trained on stored features: images are not even decoded."""
    return Transform(skip_pixels, None, finish_nothing)


def skip_pixels(stored: StoredImage) -> PreparedImage:
    """Returns a stored image with one black pixel instead of its own."""
    return PreparedImage(stored.key, stored.captions, np.zeros((1, 1, 3), np.uint8))


def finish_nothing(pixels: PixelsOfBatch) -> dict[str, np.ndarray]:
    """Returns no arrays."""
    return {}


def make_super_resolution_example(
    low_resolution: int, resolution: int, crop: int | None = None, square: str = "centre", channels: int = 3
) -> Transform:
    """Makes the transform to ``{"image", "low_res"}``: an image and its exact area means, both float32 in [-1, 1].

    Args:
        low_resolution: height and width of ``low_res`` without a crop.
        resolution: height and width of the whole image, a multiple of ``low_resolution``.
        crop: height and width of a random crop of ``image``, for training; a multiple of the ratio of both resolutions.
            The crop is aligned to the low-resolution grid, so ``low_res`` (``crop / ratio`` pixels) is its exact area
            mean.
        square: how an image becomes square before the crop, a key of ``SQUARES``.
        channels: 3 for RGB, 1 for grey.

    Raises:
        UserError: the sizes do not fit each other, ``square`` is unknown, or there are no images of so many channels.
    """
    check_channels(channels)
    factor = resolution // low_resolution
    if factor < 2 or resolution % low_resolution:
        raise UserError(
            f"a super-resolution stage from {low_resolution} to {resolution} px is not possible: "
            "make the resolution 2, 3, 4… times the low resolution"
        )
    if crop is not None and not (crop % factor == 0 and factor <= crop <= resolution):
        raise UserError(f"the crop of {crop} px does not fit: choose a multiple of {factor} up to {resolution}")

    prepare, vary = lookup(SQUARES, square, "data.crop")
    crops = [vary, None if crop is None else partial(crop_on_grid, size=crop, grid=factor)]
    return Transform(
        prepare=partial(prepare, resolution=resolution),
        vary=in_turn(*(step for step in crops if step is not None)),
        finish=partial(finish_super_resolution_example, factor=factor, channels=channels),
    )


def with_degradations(transform: Transform, factor: int, channels: int = 3) -> Transform:
    """Adds to the transform of a super-resolution stage that ``low_res`` is degraded, see ``degradations``.

    Args:
        transform: a transform of ``make_super_resolution_example``.
        factor: ratio of both resolutions.
        channels: 3 for RGB, 1 for grey.
    """
    return replace(transform, degrade=partial(degrade_examples, factor=factor, channels=channels))


def in_turn(*steps: Vary) -> Vary | None:
    """Composes random steps into one; returns None if there are none."""
    return partial(vary_in_turn, steps=steps) if steps else None


def vary_in_turn(pixels: HostPixels, generator: np.random.Generator, steps: tuple[Vary, ...]) -> SquarePixels:
    """Applies random steps one after the other."""
    for step in steps:
        pixels = step(pixels, generator)
    return pixels


def prepare_centre(stored: StoredImage, resolution: int) -> PreparedImage:
    """Decodes a stored image, crops its centre square, and downscales it to ``resolution`` high and wide."""
    return make_smaller(stored, crop_centre_square(decode_pixels(stored.encoded, resolution)), resolution)


def prepare_whole(stored: StoredImage, resolution: int) -> PreparedImage:
    """Decodes a stored image and downscales its shorter side to ``resolution`` pixels, without cropping."""
    return make_smaller(stored, decode_pixels(stored.encoded, resolution), resolution)


def make_smaller(stored: StoredImage, pixels: HostPixels, resolution: int) -> PreparedImage:
    """Downscales a stored image's pixels so that their shorter side is ``resolution``, if it is not already."""
    if min(pixels.shape[:2]) != resolution:
        pixels = to_pixels(resize_shorter_side(to_image(pixels), resolution))
    return PreparedImage(stored.key, stored.captions, pixels)


def crop_along(pixels: HostPixels, generator: np.random.Generator) -> SquarePixels:
    """Crops a random square as high or wide as the shorter side.

    A square image is returned unchanged, without using the generator.
    """
    height, width, _ = pixels.shape
    size = min(height, width)
    if height == width:
        return pixels
    start = int(generator.integers(max(height, width) - size + 1))
    return pixels[start : start + size] if height > width else pixels[:, start : start + size]


def crop_on_grid(pixels: HostPixels, generator: np.random.Generator, size: int, grid: int) -> SquarePixels:
    """Crops a random square of ``size`` pixels whose corner lies on a multiple of ``grid``."""
    positions = (len(pixels) - size) // grid + 1
    top, left = grid * generator.integers(positions, size=2)
    return pixels[top : top + size, left : left + size]


def check_channels(channels: int) -> None:
    """Checks that stored images, which are RGB, can be made to have so many channels.

    Raises:
        UserError: they can't.
    """
    if channels not in (1, 3):
        raise UserError(
            f"config.stage.channels={channels}, and the stored images are RGB: set it to 3, or to 1 for grey images"
        )


def finish_example(pixels: PixelsOfBatch, channels: int = 3) -> dict[str, np.ndarray]:
    """Returns the arrays of a base stage: ``image``."""
    return {"image": with_channels(to_image(pixels), channels)}


def finish_super_resolution_example(pixels: PixelsOfBatch, factor: int, channels: int = 3) -> dict[str, np.ndarray]:
    """Returns ``image`` and ``low_res`` of a stage that makes images ``factor`` times as high and wide."""
    image = with_channels(to_image(pixels), channels)
    return {"image": image, "low_res": resize_area(image, image.shape[1] // factor)}


def degrade_examples(
    pixels: PixelsOfBatch, generators: Sequence[np.random.Generator], factor: int, channels: int = 3
) -> dict[str, np.ndarray]:
    """Returns ``low_res``: each image degraded and shrunk by ``factor``, with its own generator."""
    small = [degrade(*each, factor) for each in zip(pixels, generators, strict=True)]
    return {"low_res": with_channels(to_image(np.stack(small)), channels)}


class Squaring(NamedTuple):
    """How an image becomes square, in the first two steps of a transform.

    Attributes:
        prepare: decodes and resizes to a resolution, and crops if the crop is not random.
        vary: random crop, or None.
    """

    prepare: Callable[[StoredImage, int], PreparedImage]
    vary: Vary | None


SQUARES = {"centre": Squaring(prepare_centre, None), "random": Squaring(prepare_whole, crop_along)}
"""Values of ``data.crop``: the centre square, or a random square along the longer side, a new one at each read."""
