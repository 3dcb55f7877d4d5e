"""Writes self-contained HTML pages: images are embedded, nothing is loaded from elsewhere, and there are no scripts.

values -> template in pages/, everything escaped -> PATH.html
image -> WebP of bounded size -> data URI
"""

import base64
import functools
import io
from collections.abc import Mapping
from typing import Any

import jinja2
from PIL import Image

from imagen_jax.array_types import HostPixels
from imagen_jax.data.opened_images import DamagedImageError
from imagen_jax.data.pixels import decode_pixels
from imagen_jax.errors import UserError
from imagen_jax.storage.paths import Path, writing
from imagen_jax.storage.refusals import raise_if_denied

PACKAGE = "imagen_jax.evaluation.reports"

KINDS = {
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"RIFF": "image/webp",
    b"<?xml": "image/svg+xml",
    b"<svg": "image/svg+xml",
}
"""Maps the first bytes of an image file to its media type."""

QUALITIES = (82, 65, 45, 25)
MIN_SIDE = 16


@functools.cache
def templates() -> jinja2.Environment:
    """Returns the environment of the pages' templates. A missing value raises an error."""
    loader = jinja2.PackageLoader(PACKAGE, "pages")
    return jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )


def write_page(path: Path, template: str, values: Mapping[str, Any]) -> int:
    """Writes a page and returns its size in bytes. Readers never see a partial file.

    Args:
        path: the HTML file.
        template: the name of the template in ``pages/``.
        values: the values for the template. Text is escaped.

    Raises:
        UserError: the page can't be written.
    """
    try:
        with writing(path) as partial, partial.open("wb") as file:
            templates().get_template(template).stream(values).dump(file, encoding="utf-8")
            return file.tell()
    except OSError as error:
        raise UserError(
            f"{path} can't be written ({error.strerror or error}): make room or choose another folder"
        ) from error


def data_uri(content: bytes, name: str) -> str:
    """Returns the data URI of an image file.

    Args:
        content: the bytes of a PNG, JPEG, WebP or SVG file.
        name: the name of the image in error messages.

    Raises:
        UserError: the file has another format.
    """
    for start, kind in KINDS.items():
        if content.startswith(start):
            return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
    raise UserError(f"{name} is neither PNG, JPEG, WebP nor SVG: save it as one of them")


def thumbnail(path: Path, side: int, max_bytes: int) -> bytes:
    """Returns an image as WebP of limited size. If necessary, it lowers the quality first and then the resolution.

    Args:
        path: the image file.
        side: the max length of the longer side in pixels. Smaller images are not enlarged.
        max_bytes: the max size of the result in bytes, at least 1,000.

    Raises:
        UserError: the image can't be read.
    """
    try:
        pixels = decode_pixels(path.read_bytes())
    except (OSError, DamagedImageError) as error:
        raise_if_denied(error, path)
        raise UserError(f"the image {path} can't be read ({error}): delete it and sample it again") from error
    return encode_thumbnail(pixels, side, max_bytes)


def encode_thumbnail(pixels: HostPixels, side: int, max_bytes: int) -> bytes:
    """Returns the pixels of an image as WebP of limited size, as ``thumbnail`` does.

    Args:
        pixels: the image.
        side: the max length of the longer side in pixels.
        max_bytes: the max size of the result in bytes, at least 1,000.
    """
    image = Image.fromarray(pixels)
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    while True:
        for quality in QUALITIES:
            encoded = io.BytesIO()
            # The default method 4 takes twice as long for files that are only 1% smaller.
            image.save(encoded, format="WEBP", quality=quality, method=2)
            if encoded.tell() <= max_bytes or (quality == QUALITIES[-1] and max(image.size) <= MIN_SIDE):
                return encoded.getvalue()
        image.thumbnail((max(image.size) * 3 // 4,) * 2, Image.Resampling.LANCZOS)
