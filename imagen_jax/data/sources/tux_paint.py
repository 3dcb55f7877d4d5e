"""The stamps of Tux Paint, a drawing program for children: about 800 drawings and cut-out photographs, with captions.

They are the files of the Debian package ``tuxpaint-stamps-default``. The first line of the ``.txt`` file next to a
stamp is its English caption; the lines after it are translations.
"""

import re
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

from imagen_jax.data.preparation.file_errors import reason_of
from imagen_jax.data.sources.records import Damage, Part, Record, fingerprint_of
from imagen_jax.errors import UserError
from imagen_jax.storage.paths import Path, files_below, to_path

ATTRIBUTION = (
    "Stamps of Tux Paint (https://tuxpaint.org), 2002-2022 by Bill Kendrick and contributors; "
    "GNU General Public License, version 2"
)
FOLDER = "/usr/share/tuxpaint/stamps"
INSTALL = "apt install tuxpaint-stamps-default"

VARIANT = re.compile(r"_(mirror|flip|mirror_flip)\.png", re.IGNORECASE)
"""End of a file name of a mirrored or flipped variant of another stamp."""

TRANSLATION = re.compile(r"[a-z]{2,3}(_[A-Za-z]+)?(@\w+)?\.utf8=")
"""Start of a line that is a translation."""


class Stamp(NamedTuple):
    """One stamp.

    Attributes:
        key: path relative to the folder of stamps, without its suffix.
        image: path of the PNG file.
        text: path of the caption file, or None.
    """

    key: str
    image: Path
    text: Path | None


def tux_paint_parts(folder: str | Path = FOLDER, images_per_part: int = 200) -> list[Part]:
    """Lists the stamps in parts, ordered by path.

    Only PNG files are read: SVG stamps are left out, and so are the mirrored variants of others (``_mirror.png``,
    ``_flip.png``, ``_mirror_flip.png``), which have no captions of their own. Stamps with the same caption, ignoring
    case, are one concept.

    Args:
        folder: folder of the stamps.
        images_per_part: max number of images of a part.

    Raises:
        UserError: the folder does not exist or contains no stamp, or ``images_per_part`` is below 1.
    """
    folder = to_path(folder).expanduser()
    if images_per_part < 1:
        raise UserError(f"images_per_part of the stamps is {images_per_part}: choose 1 or more")
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder} of Tux Paint's stamps: run {INSTALL}, or name where they are")
    marks = files_below(folder)
    stamps = list_stamps(folder, marks)
    if not stamps:
        raise UserError(f"{folder} has no stamps of Tux Paint: run {INSTALL}, or name where they are")
    return [
        make_part(f"stamps-{number:05d}", tuple(stamps[start : start + images_per_part]), marks)
        for number, start in enumerate(range(0, len(stamps), images_per_part))
    ]


def list_stamps(folder: Path, files: dict[Path, str]) -> list[Stamp]:
    """Lists the stamps among the files below a folder, without variants."""
    stamps = []
    for image in files:
        if image.suffix.lower() == ".png" and not VARIANT.search(image.name):
            text = image.with_suffix(".txt")
            key = image.relative_to(folder).with_suffix("").as_posix()
            stamps.append(Stamp(key, image, text if text in files else None))
    return stamps


def make_part(name: str, stamps: tuple[Stamp, ...], marks: dict[Path, str]) -> Part:
    """Makes a part of stamps, whose fingerprint covers the sizes and times of their files.

    Args:
        name: name of the part.
        stamps: all stamps of the part.
        marks: for every file, a text that changes when the file is rewritten.
    """
    content = [(stamp.key, marks[stamp.image], stamp.text and marks[stamp.text]) for stamp in stamps]
    return Part(name, fingerprint_of(content), partial(read_stamps, stamps))


def read_stamps(stamps: tuple[Stamp, ...]) -> Iterator[Record | Damage]:
    """Reads stamps in order.

    Raises:
        OSError: the error does not concern a single file, such as a failing disk.
    """
    for stamp in stamps:
        try:
            caption = read_caption(stamp.text.read_bytes()) if stamp.text else ""
            encoded = stamp.image.read_bytes()
        except UnicodeDecodeError as error:
            yield Damage(stamp.key, "caption is not UTF-8", str(error))
        except OSError as error:
            yield Damage(stamp.key, "file can't be read", reason_of(error))
        else:
            if caption:
                yield Record(stamp.key, (caption,), encoded, concept=caption.casefold())
            else:
                yield Damage(stamp.key, "no caption")


def read_caption(content: bytes) -> str:
    """Returns the first line of a stamp's text, or "" if it is empty or a translation.

    Raises:
        UnicodeDecodeError: the line is not UTF-8.
    """
    # Split as bytes, which splits only at line feeds and carriage returns; translations may have other encodings.
    line = next(iter(content.splitlines()), b"").decode("utf-8-sig")
    return "" if TRANSLATION.match(line.strip()) else " ".join(line.split())
