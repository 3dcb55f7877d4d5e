"""Image files as they come: looked into once, before they are stored, so that training meets none that can't be read.

    bytes -> opened, its size and frames checked -> decoded whole -> as it came, or in a plain form

Plain is 8 bits a channel, grey or RGB, upright, opaque, one frame. What is plain and small enough is stored as it came:
encoding it again would cost quality. The rest is turned upright, laid on white, made smaller, and encoded anew.
"""

import warnings
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image

from imagen_jax.array_types import HostPixels
from imagen_jax.data.opened_images import MAX_PIXELS, opened_image
from imagen_jax.data.pixels import decode_upright, encode_jpeg, encode_png, lay_on_white, shrink
from imagen_jax.errors import UserError

AS_THEY_COME = ("JPEG", "PNG", "WEBP")
"""Formats that are stored as they come, if plain."""

LOSSY = ("JPEG", "WEBP", "MPO")
ORIENTATION = 0x0112
"""The tag of EXIF that says how a photo is to be turned; 1 is upright."""

HASH_SIDE = 16
EDGES = HASH_SIDE * HASH_SIDE // 8
"""Bytes of what ``hash_looks`` returns of the edges."""
COLOUR_SIDE = 4
LOOKS = EDGES + COLOUR_SIDE * COLOUR_SIDE * 3
"""Bytes of what it returns."""


@dataclass(frozen=True)
class ImageRules:
    """How images are stored.

    Attributes:
        shorter_side: larger ones are made smaller until their shorter side is this many pixels; None: as they are.
        largest: pixels; more are taken for a decompression bomb.
        quality: of JPEG, where a lossy image is encoded anew, 1 to 100.
    """

    shorter_side: int | None = None
    largest: int = MAX_PIXELS
    quality: int = 95

    def __post_init__(self) -> None:
        """Raises ``UserError`` where a number is out of range."""
        if self.shorter_side is not None and self.shorter_side < 1:
            raise UserError(
                f"images can't be stored with a shorter side of {self.shorter_side} pixels: choose 1 or more"
            )
        if not 1 <= self.quality <= 100:
            raise UserError(f"a JPEG quality of {self.quality} is out of range: choose 1 to 100")


class CheckedImage(NamedTuple):
    """An image that can be read.

    Attributes:
        encoded: what is stored.
        width: of it, in pixels.
        height: likewise.
        source_width: of the image as it came, upright.
        source_height: likewise.
        looks: ``LOOKS`` bytes that are alike for images that look alike, see ``hash_looks``.
    """

    encoded: bytes
    width: int
    height: int
    source_width: int
    source_height: int
    looks: bytes


def check_image(encoded: bytes, rules: ImageRules) -> CheckedImage:
    """Decodes an image whole and gives what is to be stored of it.

    Raises:
        DamagedImageError: it is empty, no image, too large, animated, or can't be decoded to its end.
    """
    pixels, plain, lossy = decode_whole(encoded, rules.largest)
    height, width, _ = pixels.shape
    looks = hash_looks(pixels)
    if rules.shorter_side is not None and min(width, height) > rules.shorter_side:
        pixels, plain = shrink(pixels, rules.shorter_side), False
    if not plain:
        encoded = encode_jpeg(pixels, rules.quality) if lossy else encode_png(pixels)
    return CheckedImage(encoded, pixels.shape[1], pixels.shape[0], width, height, looks)


def decode_whole(encoded: bytes, largest: int) -> tuple[HostPixels, bool, bool]:
    """The pixels of an image, upright and opaque; whether its file is plain; and whether it is of a lossy format.

    Raises:
        DamagedImageError: see ``check_image``.
    """
    # Pillow warns of large images, of odd metadata, of what it will do otherwise in another version.
    with warnings.catch_warnings(action="ignore"), opened_image(encoded, largest) as image:
        plain = image.format in AS_THEY_COME and image.mode in ("RGB", "L") and not image.has_transparency_data
        plain = plain and image.getexif().get(ORIENTATION, 1) == 1
        upright = decode_upright(image)
        return lay_on_white(upright), plain, image.format in LOSSY and not upright.has_transparency_data


def hash_looks(pixels: HostPixels) -> bytes:
    """What is alike for pictures that look alike: ``EDGES`` bytes, then the mean colours of 4 × 4 fields.

    The edges are 256 bits: of 16 × 17 means of grey, whether each is darker than its right neighbour ("dHash"). The
    same picture, larger, smaller or encoded anew, differs in a few; others differ in about 128. A picture without
    edges, such as a plain one, has only zeros. The colours tell a red light from a green one.
    """
    image = Image.fromarray(pixels)
    # In whole numbers, so that every machine finds the same.
    small = image.resize((HASH_SIDE + 1, HASH_SIDE), Image.Resampling.HAMMING)
    grey = np.asarray(small).astype(np.int16).sum(axis=-1)
    colours = np.asarray(image.resize((COLOUR_SIDE, COLOUR_SIDE), Image.Resampling.HAMMING))
    return np.packbits(grey[:, :-1] < grey[:, 1:]).tobytes() + colours.tobytes()
