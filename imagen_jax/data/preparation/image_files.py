"""Checks image files once before they are stored, so that training reads only valid ones.

    bytes -> opened, size and frames checked -> decoded completely -> kept unchanged, or encoded in a plain form

"Plain" means 8 bits per channel, grey or RGB, upright, opaque, one frame. Plain files that are small enough are stored
unchanged, because encoding them again would cost quality. Others are turned upright, composited on white, downscaled
and encoded again.
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
"""Formats that are stored unchanged, if the file is plain."""

LOSSY = ("JPEG", "WEBP", "MPO")
ORIENTATION = 0x0112
"""The EXIF tag for the orientation of a photo; 1 is upright."""

HASH_SIDE = 16
EDGES = HASH_SIDE * HASH_SIDE // 8
"""Number of bytes of the edges in the result of ``hash_looks``."""
COLOUR_SIDE = 4
LOOKS = EDGES + COLOUR_SIDE * COLOUR_SIDE * 3
"""Number of bytes of the result of ``hash_looks``."""


@dataclass(frozen=True)
class ImageRules:
    """How images are stored.

    Attributes:
        shorter_side: shorter side in pixels to which larger images are downscaled; None: no downscaling.
        largest: max width × height; a larger image is treated as a decompression bomb.
        quality: JPEG quality, 1 to 100, for lossy images that are encoded again.
    """

    shorter_side: int | None = None
    largest: int = MAX_PIXELS
    quality: int = 95

    def __post_init__(self) -> None:
        """Checks the numbers.

        Raises:
            UserError: a number is out of range.
        """
        if self.shorter_side is not None and self.shorter_side < 1:
            raise UserError(
                f"images can't be stored with a shorter side of {self.shorter_side} pixels: choose 1 or more"
            )
        if not 1 <= self.quality <= 100:
            raise UserError(f"a JPEG quality of {self.quality} is out of range: choose 1 to 100")


class CheckedImage(NamedTuple):
    """An image that can be read.

    Attributes:
        encoded: bytes of the image file to store.
        width: width of the stored image in pixels.
        height: height of the stored image in pixels.
        source_width: width of the source image in pixels, upright.
        source_height: height of the source image in pixels, upright.
        looks: perceptual hash of ``LOOKS`` bytes, see ``hash_looks``.
    """

    encoded: bytes
    width: int
    height: int
    source_width: int
    source_height: int
    looks: bytes


def check_image(encoded: bytes, rules: ImageRules) -> CheckedImage:
    """Decodes an image completely and returns the image to store.

    Raises:
        DamagedImageError: it is empty, not an image, too large, animated, has no 8-bit form, or can't be decoded
            completely.
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
    """Returns an image's pixels, upright and opaque; whether its file is plain; and whether its format is lossy.

    An image with transparency counts as lossless.

    Raises:
        DamagedImageError: the image can't be used, see ``check_image``.
    """
    # Pillow warns of large images, of unusual metadata, and of deprecations.
    with warnings.catch_warnings(action="ignore"), opened_image(encoded, largest) as image:
        plain = image.format in AS_THEY_COME and image.mode in ("RGB", "L") and not image.has_transparency_data
        plain = plain and image.getexif().get(ORIENTATION, 1) == 1
        upright = decode_upright(image)
        return lay_on_white(upright), plain, image.format in LOSSY and not upright.has_transparency_data


def hash_looks(pixels: HostPixels) -> bytes:
    """Returns a perceptual hash: ``EDGES`` bytes of edges, then the mean colours of a 4 × 4 grid.

    The edges are 256 bits of a "dHash": for 16 × 17 means of grey, whether each is darker than its right neighbour.
    Scaled or re-encoded copies of an image differ in a few bits, and different images in about 128. The edges of a
    uniform image are only zeros. The colours distinguish a red light from a green one.
    """
    image = Image.fromarray(pixels)
    # In integer arithmetic, so that every machine gets the same hash.
    small = image.resize((HASH_SIDE + 1, HASH_SIDE), Image.Resampling.HAMMING)
    grey = np.asarray(small).astype(np.int16).sum(axis=-1)
    colours = np.asarray(image.resize((COLOUR_SIDE, COLOUR_SIDE), Image.Resampling.HAMMING))
    return np.packbits(grey[:, :-1] < grey[:, 1:]).tobytes() + colours.tobytes()
