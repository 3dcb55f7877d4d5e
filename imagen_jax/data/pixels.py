"""Pixels on the host: decode, encode, lay on white, crop, make smaller.

Pixels are 0 to 255 as stored, images float32 in [-1, 1] as networks see them; ``*batch`` stands for any leading axes.
"""

import io
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image, ImageOps

from imagen_jax.array_types import HostPixels
from imagen_jax.data.opened_images import DamagedImageError, opened_image
from imagen_jax.errors import UserError

PixelsOfAny = UInt8[np.ndarray, "*batch height width 3"]
SquarePixels = UInt8[np.ndarray, "size size 3"]
ImagesOfAny = Float32[np.ndarray, "*batch height width 3"]

ROWS_AT_A_TIME = 1024
"""Of an image that is laid on white: the layers for it would take five times the memory of a large one."""

COLUMNS_AT_A_TIME = 256
"""Of an image that is made smaller by a ratio that is not whole."""


def to_image(pixels: PixelsOfAny) -> ImagesOfAny:
    """Maps 0…255 to [-1, 1]."""
    image = pixels.astype(np.float32)
    image /= np.float32(127.5)
    image -= np.float32(1)
    return image


def to_pixels(image: ImagesOfAny) -> PixelsOfAny:
    """Maps [-1, 1] to 0…255, to the nearest; what is outside is clipped."""
    return np.clip(np.rint((image + 1) * 127.5), 0, 255).astype(np.uint8)


def decode_pixels(source: Any, shorter_side: int | None = None) -> HostPixels:
    """Decodes an image file of ``opened_images.FORMATS`` as ``decode_upright`` does; transparency is laid on white.

    Args:
        source: the file's bytes, or the file.
        shorter_side: pixels that will do. A JPEG can be decoded at a half, a quarter or an eighth of its size, in less
            time (Wallace 1991: an eighth are the means of its blocks); it is, where that leaves at least so many.

    Raises:
        DamagedImageError: it is no image, too large, animated, has no 8-bit form, or can't be decoded.
    """
    with opened_image(source) as image:
        if shorter_side is not None:
            image.draft(None, (shorter_side, shorter_side))
        return lay_on_white(decode_upright(image))


def decode_upright(image: Image.Image) -> Image.Image:
    """Decodes an opened image: one frame, upright, with 8 bits a channel, in its own colour space.

    Every picture, mask and stored image is decoded here, so all of them look alike:

    - The orientation that EXIF or XMP gives is applied, and the image has none any more.
    - 16-bit grey becomes 8-bit grey, to the nearest; of 16-bit colour Pillow keeps the upper byte.
    - 32-bit integers and floats are refused: nothing says whether their white is 1, 255 or another number.
    - Colour profiles (ICC) are not applied.

    Args:
        image: as ``opened_image`` gives it, within its block; it is changed.

    Raises:
        DamagedImageError: it is animated, or has no 8-bit form.
    """
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":  # of which a camera's second frame is a preview
        raise DamagedImageError("image is animated", f"{frames} frames")
    image.load()
    # Only a TIFF has its orientation elsewhere; of a small PNG the look would take as long as its pixels.
    if image.info or image.format == "TIFF":
        # In place: a copy of 64 million pixels would take 256 MB.
        ImageOps.exif_transpose(image, in_place=True)
    return to_eight_bits(image)


def to_eight_bits(image: Image.Image) -> Image.Image:
    """An image with 16 bits a channel as one with 8, to the nearest; others as they are.

    Raises:
        DamagedImageError: it has numbers without a range, such as floats.
    """
    # Pillow scales PGM and PNM files of more than 8 bits to 16, and calls them "I".
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        values = np.asarray(image)
        # Row by row, since whole numbers large enough would take four times the image's memory.
        rows = [((row.astype(np.uint32) + 128) // 257).astype(np.uint8) for row in values]
        grey = Image.fromarray(np.stack(rows))
        transparent = image.info.get("transparency")
        if isinstance(transparent, int):
            grey.putalpha(Image.fromarray(values != transparent).convert("L"))
        return grey
    if image.mode in ("I", "F"):
        detail = f"nothing says which numbers of mode {image.mode} are black and white, save it with 8 or 16 bits"
        raise DamagedImageError("image has no 8-bit form", detail)
    return image


def encode_png(pixels: HostPixels) -> bytes:
    """Encodes pixels as a PNG file, without loss."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def encode_jpeg(pixels: HostPixels, quality: int = 95) -> bytes:
    """Encodes pixels as a JPEG file, with colours as sharp as brightness; ``quality`` is 1 to 100."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG", quality=quality, subsampling=0)
    return buffer.getvalue()


def lay_on_white(image: Image.Image) -> HostPixels:
    """Composites an image of any mode on white and returns its RGB pixels."""
    if not image.has_transparency_data:
        return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
    width, height = image.size
    pixels = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, ROWS_AT_A_TIME):
        rows = image.crop((0, top, width, min(top + ROWS_AT_A_TIME, height)))
        # Straight from palette or grey to RGBA, so that a transparent palette entry counts too.
        layer = rows.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        pixels[top : top + ROWS_AT_A_TIME] = np.asarray(Image.alpha_composite(white, layer).convert("RGB"))
    return pixels


def crop_centre_square(pixels: HostPixels) -> SquarePixels:
    """Returns the largest centred square."""
    height, width, _ = pixels.shape
    size = min(height, width)
    top, left = (height - size) // 2, (width - size) // 2
    return pixels[top : top + size, left : left + size]


def resize_area(image: ImagesOfAny, resolution: int) -> Float32[np.ndarray, "*batch {resolution} {resolution} 3"]:
    """Makes square images smaller: each new pixel is the exact mean of the area that it covers in the old image.

    The area mean is antialiased, overshoots nowhere (Lanczos rings beside the flat colours of drawings), and composes:
    256 to 128 to 64 equals 256 to 64. It holds for any ratio; pixels that are covered in part count in part.

    Args:
        image: one or many, square, in any range.
        resolution: the new height and width, at most the old.

    Raises:
        UserError: the image is not square, or is smaller than ``resolution``.
    """
    height, width = image.shape[-3:-1]
    if height != width or height < resolution:
        raise UserError(
            f"an image of {width}×{height} pixels cannot be made {resolution}×{resolution}: "
            f"give a square one of at least {resolution} pixels, or ask for a smaller resolution"
        )
    return resize_shorter_side(image, resolution)


def resize_shorter_side(image: ImagesOfAny, shorter_side: int) -> Float32[np.ndarray, "*batch new_height new_width 3"]:
    """Makes images of any shape smaller, as ``resize_area`` does, until their shorter side has so many pixels.

    Args:
        image: one or many, in any range.
        shorter_side: in pixels, at most that of the image. The longer one is rounded, see ``size_of_smaller``.

    Raises:
        UserError: the image is smaller than that.
    """
    height, width = image.shape[-3:-1]
    if min(height, width) < shorter_side:
        raise UserError(
            f"an image of {width}×{height} pixels cannot be made {shorter_side} pixels wide or high: "
            "give a larger one, or ask for a smaller resolution"
        )
    new_height, new_width = size_of_smaller(height, width, shorter_side)
    factor = height // new_height
    if (height, width) == (factor * new_height, factor * new_width):
        return _mean_of_blocks(image, factor)
    columns = _mean_of_rows(image, new_height)
    return _mean_of_rows(columns.swapaxes(-3, -2), new_width).swapaxes(-3, -2)


def size_of_smaller(height: int, width: int, shorter_side: int) -> tuple[int, int]:
    """The height and width of an image whose shorter side was made so many pixels.

    The longer side is rounded to a whole pixel, so the picture is stretched by at most half of one.
    """
    scale = shorter_side / min(height, width)
    return max(round(height * scale), shorter_side), max(round(width * scale), shorter_side)


def _mean_of_blocks(image: np.ndarray, factor: int) -> np.ndarray:
    # Adding strided views is several times faster than a mean over two axes of a reshaped image.
    rows = image[..., 0::factor, :, :].copy()
    for offset in range(1, factor):
        rows += image[..., offset::factor, :, :]
    blocks = rows[..., 0::factor, :].copy()
    for offset in range(1, factor):
        blocks += rows[..., offset::factor, :]
    return blocks / np.float32(factor**2)


def _mean_of_rows(image: np.ndarray, size: int) -> np.ndarray:
    # Band by band, as the sums are twice as large as the image, and there are several.
    starts = range(0, image.shape[-2], COLUMNS_AT_A_TIME)
    bands = [_mean_of_rows_of_band(image[..., start : start + COLUMNS_AT_A_TIME, :], size) for start in starts]
    return np.concatenate(bands, axis=-2)


def _mean_of_rows_of_band(image: np.ndarray, size: int) -> np.ndarray:
    # The integral up to a fractional edge is the cumulative sum, interpolated; a mean is a difference of two integrals.
    height = image.shape[-3]
    cumulative = np.cumsum(image, axis=-3, dtype=np.float64)
    cumulative = np.concatenate([np.zeros_like(cumulative[..., :1, :, :]), cumulative], axis=-3)
    edges = np.arange(size + 1) * height / size
    whole = np.minimum(edges.astype(int), height - 1)
    fraction = np.expand_dims(edges - whole, (-2, -1))
    integral = cumulative[..., whole, :, :] * (1 - fraction) + cumulative[..., whole + 1, :, :] * fraction
    return (np.diff(integral, axis=-3) * (size / height)).astype(np.float32)


def shrink(pixels: HostPixels, shorter_side: int) -> UInt8[np.ndarray, "new_height new_width 3"]:
    """Makes an image of any shape smaller until its shorter side has so many pixels, antialiased.

    By Pillow's Hamming filter in whole numbers: nearly as sharp as bicubic, it overshoots nowhere, and gives the same
    bytes on every machine.

    Args:
        pixels: its shorter side has at least ``shorter_side`` pixels.
        shorter_side: in pixels, at least 1. The longer one is rounded, see ``size_of_smaller``.
    """
    height, width, _ = pixels.shape
    new_height, new_width = size_of_smaller(height, width, shorter_side)
    return np.asarray(Image.fromarray(pixels).resize((new_width, new_height), Image.Resampling.HAMMING))
