"""Operations on pixels on the host: decode, encode, composite on white, crop, downscale.

"Pixels" are uint8, 0 to 255, as stored. "Images" are float32 in [-1, 1], as networks take them. ``*batch`` stands for
any leading axes.
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
"""Number of rows that are composited on white at a time.

RGBA layers of a whole large image would take five times its memory.
"""

COLUMNS_AT_A_TIME = 256
"""Number of columns that are downscaled at a time, if the ratio is not an integer."""


def to_image(pixels: PixelsOfAny) -> ImagesOfAny:
    """Maps 0…255 to [-1, 1]."""
    image = pixels.astype(np.float32)
    image /= np.float32(127.5)
    image -= np.float32(1)
    return image


def to_pixels(image: ImagesOfAny) -> PixelsOfAny:
    """Maps [-1, 1] to 0…255, rounded to the nearest integer; values outside the range are clipped."""
    return np.clip(np.rint((image + 1) * 127.5), 0, 255).astype(np.uint8)


def decode_pixels(source: Any, shorter_side: int | None = None) -> HostPixels:
    """Decodes an image file of ``opened_images.FORMATS`` as ``decode_upright`` does, and composites it on white.

    Args:
        source: the file's bytes, or the file.
        shorter_side: pixels of the shorter side that are sufficient. A JPEG can be decoded at 1/2, 1/4 or 1/8 of its
            size, which takes less time (Wallace 1991: at 1/8 each pixel is the mean of a block). It is, if at least
            this many pixels remain.

    Raises:
        DamagedImageError: it is not an image, is too large, is animated, has no 8-bit form, or can't be decoded.
    """
    with opened_image(source) as image:
        if shorter_side is not None:
            image.draft(None, (shorter_side, shorter_side))
        return lay_on_white(decode_upright(image))


def decode_upright(image: Image.Image) -> Image.Image:
    """Decodes an opened image: one frame, upright, with 8 bits per channel, in its own colour space.

    All images, masks and stored images are decoded here, so all are treated alike:

    - The EXIF or XMP orientation is applied and removed.
    - 16-bit grey becomes 8-bit grey, rounded to the nearest value; of 16-bit colour Pillow keeps the upper byte.
    - 32-bit integers and floats are rejected: it is unknown whether their white is 1, 255 or another number.
    - Colour profiles (ICC) are not applied.

    Args:
        image: an image from ``opened_image``, within its block; it is modified in place.

    Raises:
        DamagedImageError: it is animated, or has no 8-bit form.
    """
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":  # an MPO's second frame is a camera's preview
        raise DamagedImageError("image is animated", f"{frames} frames")
    image.load()
    # The orientation is in ``info``, except in a TIFF. For a small PNG the lookup takes as long as decoding.
    if image.info or image.format == "TIFF":
        # In place: a copy of 64 million pixels would take 256 MB.
        ImageOps.exif_transpose(image, in_place=True)
    return to_eight_bits(image)


def to_eight_bits(image: Image.Image) -> Image.Image:
    """Converts an image with 16 bits per channel to 8 bits, rounded to the nearest; returns others unchanged.

    Raises:
        DamagedImageError: its values have no defined range, such as floats.
    """
    # Pillow scales PGM and PNM files of more than 8 bits to 16, and calls them "I".
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        values = np.asarray(image)
        # Row by row: uint32 arrays of the whole image would take four times its memory.
        rows = [((row.astype(np.uint32) + 128) // 257).astype(np.uint8) for row in values]
        grey = Image.fromarray(np.stack(rows))
        transparent = image.info.get("transparency")
        if isinstance(transparent, int):
            grey.putalpha(Image.fromarray(values != transparent).convert("L"))
        return grey
    if image.mode in ("I", "F"):
        detail = f"the values of black and white in mode {image.mode} are unknown, save it with 8 or 16 bits"
        raise DamagedImageError("image has no 8-bit form", detail)
    return image


def encode_png(pixels: HostPixels) -> bytes:
    """Encodes pixels losslessly as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def encode_jpeg(pixels: HostPixels, quality: int = 95) -> bytes:
    """Encodes pixels as a JPEG file without chroma subsampling; ``quality`` is 1 to 100."""
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
        # Directly from palette or grey to RGBA, so that transparent palette entries are respected.
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
    """Downscales square images: each new pixel is the exact mean of the area that it covers in the old image.

    The area mean is antialiased and never overshoots, while Lanczos rings beside the flat colours of drawings. It
    composes: 256 to 128 to 64 equals 256 to 64. It works for any ratio: partly covered pixels are weighted by the
    covered part.

    Args:
        image: one or more square images, with values in any range.
        resolution: the new height and width, at most the old ones.

    Raises:
        UserError: the image is not square, or is smaller than ``resolution``.
    """
    height, width = image.shape[-3:-1]
    if height != width or height < resolution:
        raise UserError(
            f"an image of {width}×{height} pixels can't be downscaled to {resolution}×{resolution}: "
            f"give a square one of at least {resolution} pixels, or choose a smaller resolution"
        )
    return resize_shorter_side(image, resolution)


def resize_shorter_side(image: ImagesOfAny, shorter_side: int) -> Float32[np.ndarray, "*batch new_height new_width 3"]:
    """Downscales images of any shape by area means, as ``resize_area`` does, to a given shorter side.

    Args:
        image: one or more images of the same shape, with values in any range.
        shorter_side: new shorter side in pixels, at most the old one. The longer side is rounded, see
            ``size_of_smaller``.

    Raises:
        UserError: the image's shorter side is smaller than ``shorter_side``.
    """
    height, width = image.shape[-3:-1]
    if min(height, width) < shorter_side:
        raise UserError(
            f"an image of {width}×{height} pixels can't be downscaled to a shorter side of {shorter_side} pixels: "
            "give a larger one, or choose a smaller resolution"
        )
    new_height, new_width = size_of_smaller(height, width, shorter_side)
    factor = height // new_height
    if (height, width) == (factor * new_height, factor * new_width):
        return _mean_of_blocks(image, factor)
    columns = _mean_of_rows(image, new_height)
    return _mean_of_rows(columns.swapaxes(-3, -2), new_width).swapaxes(-3, -2)


def size_of_smaller(height: int, width: int, shorter_side: int) -> tuple[int, int]:
    """Returns the height and width of an image after its shorter side is downscaled to ``shorter_side`` pixels.

    The longer side is rounded to a whole pixel, so the image is stretched by at most half a pixel.
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
    # Band by band: the float64 sums take twice the image's memory, and there are several of them.
    starts = range(0, image.shape[-2], COLUMNS_AT_A_TIME)
    bands = [_mean_of_rows_of_band(image[..., start : start + COLUMNS_AT_A_TIME, :], size) for start in starts]
    return np.concatenate(bands, axis=-2)


def _mean_of_rows_of_band(image: np.ndarray, size: int) -> np.ndarray:
    # The integral up to a fractional edge is the cumulative sum, linearly interpolated. A mean is a difference of two
    # integrals.
    height = image.shape[-3]
    cumulative = np.cumsum(image, axis=-3, dtype=np.float64)
    cumulative = np.concatenate([np.zeros_like(cumulative[..., :1, :, :]), cumulative], axis=-3)
    edges = np.arange(size + 1) * height / size
    whole = np.minimum(edges.astype(int), height - 1)
    fraction = np.expand_dims(edges - whole, (-2, -1))
    integral = cumulative[..., whole, :, :] * (1 - fraction) + cumulative[..., whole + 1, :, :] * fraction
    return (np.diff(integral, axis=-3) * (size / height)).astype(np.float32)


def shrink(pixels: HostPixels, shorter_side: int) -> UInt8[np.ndarray, "new_height new_width 3"]:
    """Downscales an image of any shape to a given shorter side, antialiased.

    It uses Pillow's Hamming filter, which is nearly as sharp as bicubic and never overshoots. Pillow's integer
    arithmetic gives the same bytes on every machine.

    Args:
        pixels: image whose shorter side has at least ``shorter_side`` pixels.
        shorter_side: new shorter side in pixels, at least 1. The longer side is rounded, see ``size_of_smaller``.
    """
    height, width, _ = pixels.shape
    new_height, new_width = size_of_smaller(height, width, shorter_side)
    return np.asarray(Image.fromarray(pixels).resize((new_width, new_height), Image.Resampling.HAMMING))


def with_channels(image: Any, channels: int) -> Any:
    """Returns RGB images unchanged, or for one channel their brightness (ITU-R BT.601), ``(…, height, width, 1)``."""
    return image if channels == 3 else image @ np.array([[0.299], [0.587], [0.114]], np.float32)
