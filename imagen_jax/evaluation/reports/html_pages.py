"""HTML pages that are one file each: pictures are in them, they ask for nothing else, and run no program.

values -> template in pages/, everything escaped -> PATH.html
picture -> WebP of bounded size -> data URI
"""

import base64
import functools
import io
from collections.abc import Mapping
from typing import Any

import jinja2
from PIL import Image

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
"""What a picture is, by how its file begins."""

QUALITIES = (82, 65, 45, 25)
MIN_SIDE = 16


@functools.cache
def templates() -> jinja2.Environment:
    """The pages' templates; a value that is not given is a defect."""
    loader = jinja2.PackageLoader(PACKAGE, "pages")
    return jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )


def write_page(path: Path, template: str, values: Mapping[str, Any]) -> int:
    """Writes a page, under its name only when it is whole; returns its size in bytes.

    Args:
        path: the HTML file.
        template: its name in ``pages/``.
        values: what the template asks for; text is escaped.

    Raises:
        UserError: it can't be written.
    """
    try:
        with writing(path) as place, place.open("wb") as file:
            templates().get_template(template).stream(values).dump(file, encoding="utf-8")
            return file.tell()
    except OSError as error:
        raise UserError(
            f"{path} can't be written ({error.strerror or error}): make room or choose another folder"
        ) from error


def data_uri(content: bytes, name: str) -> str:
    """A picture's file as an address that holds it.

    Args:
        content: of a PNG, JPEG, WebP or SVG file.
        name: what to call it in an error.

    Raises:
        UserError: it is none of these.
    """
    for start, kind in KINDS.items():
        if content.startswith(start):
            return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
    raise UserError(f"{name} is neither PNG, JPEG, WebP nor SVG: save it as one of them")


def thumbnail(path: Path, side: int, most_bytes: int) -> bytes:
    """A picture as WebP that is no larger than asked for: of lower quality where need be, then smaller.

    Args:
        path: of the picture.
        side: its longer side in pixels, at most; a smaller picture stays as it is.
        most_bytes: of the result, at least 1,000.

    Raises:
        UserError: it can't be read.
    """
    try:
        image = Image.fromarray(decode_pixels(path.read_bytes()))
    except (OSError, DamagedImageError) as error:
        raise_if_denied(error, path)
        raise UserError(f"the picture {path} can't be read ({error}): delete it and draw it again") from error
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    while True:
        for quality in QUALITIES:
            encoded = io.BytesIO()
            # Method 4, the usual one, takes twice as long for files that are 1% smaller.
            image.save(encoded, format="WEBP", quality=quality, method=2)
            if encoded.tell() <= most_bytes or (quality == QUALITIES[-1] and max(image.size) <= MIN_SIDE):
                return encoded.getvalue()
        image.thumbnail((max(image.size) * 3 // 4,) * 2, Image.Resampling.LANCZOS)
