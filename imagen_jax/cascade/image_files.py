"""Writes images for viewing: 8-bit pixels, image files with metadata on how they were made, and labelled grids."""

import hashlib
import io
import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from imagen_jax.data.opened_images import opened_image
from imagen_jax.errors import UserError
from imagen_jax.storage.paths import Path, create_folder, write_whole

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
Pixels = UInt8[np.ndarray, "height width 3"]

IMAGE_DESCRIPTION = 0x010E
"""The EXIF tag ImageDescription."""

MIN_SHOWN = 128
"""Min width in pixels of an image in a grid; smaller ones are enlarged by an integer factor."""

MARGIN = 12
LABEL_SIZE = 15
LABEL_LINES = 2
MAX_SLUG_LENGTH = 60


def to_pixels(images: Float[np.ndarray, "*batch height width channels"]) -> UInt8[np.ndarray, "*batch height width 3"]:
    """Converts images in [-1, 1] to 8-bit RGB, rounded to the nearest; values outside are clipped. Grey becomes RGB."""
    images = np.repeat(images, 3, axis=-1) if images.shape[-1] == 1 else images
    return np.floor(np.clip((images + 1.0) * 127.5, 0.0, 255.0) + 0.5).astype(np.uint8)


def save_png(path: Path, pixels: Pixels, metadata: Mapping[str, str]) -> None:
    """Writes a PNG atomically, with ``metadata`` in its text chunks.

    Raises:
        UserError: it can't be written.
    """
    try:
        write_whole(path, encode_picture(pixels, "png", metadata))
    except OSError as error:
        raise UserError(
            f"{path} can't be written ({error.strerror or error}): make room or choose another folder"
        ) from error


def encode_picture(pixels: Pixels, form: str, metadata: Mapping[str, str]) -> bytes:
    """Encodes an image as a file's bytes, with metadata in PNG text chunks or as JSON in EXIF's ImageDescription.

    Args:
        pixels: uint8, ``(height, width, 3)``.
        form: "png", "jpg" (quality 95, no chroma subsampling) or "webp" (lossless).
        metadata: metadata by key.
    """
    file = io.BytesIO()
    if form == "png":
        info = PngInfo()
        for key, value in metadata.items():
            info.add_itxt(key, value)
        Image.fromarray(pixels).save(file, format="PNG", pnginfo=info)
        return file.getvalue()
    exif = Image.Exif()
    exif[IMAGE_DESCRIPTION] = json.dumps(dict(metadata))
    options: dict[str, Any] = {"quality": 95, "subsampling": 0} if form == "jpg" else {"lossless": True}
    Image.fromarray(pixels).save(file, format={"jpg": "JPEG", "webp": "WEBP"}[form], exif=exif, **options)
    return file.getvalue()


def read_png_metadata(path: Path) -> dict[str, str]:
    """Reads the text chunks of a PNG.

    Raises:
        DamagedImageError: it is no image.
    """
    with path.open("rb") as file, opened_image(file) as image:
        return {key: str(value) for key, value in getattr(image, "text", {}).items()}


def file_name(prompt: str, seed: int, index: int) -> str:
    """Returns a readable ASCII file name without suffix, unique to prompt, seed and index."""
    slug = re.sub(r"[^\w]+", "_", without_accents(prompt.lower())).strip("_")[:MAX_SLUG_LENGTH]
    safe = slug.encode("ascii", "ignore").decode().strip("_") or "picture"
    digest = hashlib.sha256(prompt.encode()).hexdigest()[:8]
    return f"{safe}-{digest}-seed{seed}-{index}"


def labelled_grid(
    images: UInt8[np.ndarray, "images height width 3"], labels: Sequence[str], columns: int
) -> UInt8[np.ndarray, "sheet_height sheet_width 3"]:
    """Arranges images on a white sheet, row by row, each with its label below.

    Args:
        images: images of one size.
        labels: one per image; long ones are wrapped to ``LABEL_LINES`` lines and truncated with an ellipsis.
        columns: max number of images per row.
    """
    height, width = images.shape[1:3]
    factor = max(1, -(-MIN_SHOWN // width))
    cell_width, cell_height = width * factor + MARGIN, height * factor + LABEL_LINES * (LABEL_SIZE + 4) + MARGIN
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * cell_width + MARGIN, rows * cell_height + MARGIN), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(LABEL_SIZE)
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        row, column = divmod(number, columns)
        left, top = MARGIN + column * cell_width, MARGIN + row * cell_height
        enlarged = Image.fromarray(image).resize((width * factor, height * factor), Image.Resampling.NEAREST)
        sheet.paste(enlarged, (left, top))
        for line, text in enumerate(wrap_label(label, width * factor, font)):
            position = (left + width * factor / 2, top + height * factor + 4 + line * (LABEL_SIZE + 4))
            draw.text(position, text, fill="black", font=font, anchor="ma")
    return np.array(sheet)


def wrap_label(label: str, width: int, font: Font) -> list[str]:
    """Wraps a label to at most ``LABEL_LINES`` lines of ``width`` pixels; an ellipsis replaces the rest."""
    lines = [""]
    for word in spell(label, font).split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
            continue
        if lines[-1]:
            lines.append("")
        # Breaks words that are wider than the image, and scripts without spaces.
        for character in word:
            if font.getlength(lines[-1] + character) > width:
                lines.append("")
            lines[-1] += character
    shown = lines[:LABEL_LINES]
    if len(lines) > LABEL_LINES:
        while shown[-1] and font.getlength(shown[-1] + "…") > width:
            shown[-1] = shown[-1][:-1]
        shown[-1] += "…"
    return shown


def spell(text: str, font: Font) -> str:
    """Removes the accents of letters that the font lacks; its other missing characters show as empty boxes."""
    missing = bytes(font.getmask("\uffff"))
    return "".join(
        without_accents(character) if bytes(font.getmask(character)) == missing else character for character in text
    )


def without_accents(text: str) -> str:
    """Removes the accents of a text: "café" becomes "cafe"."""
    return "".join(
        character for character in unicodedata.normalize("NFKD", text) if not unicodedata.combining(character)
    )


def make_folder(folder: Path) -> None:
    """Creates the output folder, and checks that it can be written to.

    Raises:
        UserError: it can't be created or written to.
    """
    try:
        create_folder(folder)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"the output folder {folder} can't be written to ({error.strerror or error}): choose another folder"
        ) from None
