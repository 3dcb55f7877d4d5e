"""The stamps of Tux Paint, a drawing program for children: some 800 drawings and cut-out photographs, with captions.

They are the files of the Debian package ``tuxpaint-stamps-default``. The first line of the ``.txt`` beside a stamp is
its English caption; the lines after it are translations.
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
"""How the name of a drawing ends that Tux Paint shows where another stamp is mirrored or turned over."""

TRANSLATION = re.compile(r"[a-z]{2,3}(_[A-Za-z]+)?(@\w+)?\.utf8=")
"""How a line begins that is a translation."""


class Stamp(NamedTuple):
    """One stamp.

    Attributes:
        key: its path below the folder of stamps, without its suffix.
        image: the PNG file.
        text: the file of its caption, or None where there is none.
    """

    key: str
    image: Path
    text: Path | None


def tux_paint_parts(folder: str | Path = FOLDER, images_per_part: int = 200) -> list[Part]:
    """Lists the stamps in parts, ordered by path.

    Only PNG files: stamps that are drawn as SVG are left out, and so are the mirrored variants of others
    (``_mirror.png``, ``_flip.png``, ``_mirror_flip.png``), which have no captions of their own. Stamps with the same
    caption (whatever its capitals) are one concept.

    Args:
        folder: of the stamps.
        images_per_part: at most.

    Raises:
        UserError: the folder does not exist or holds no stamp.
    """
    folder = to_path(folder).expanduser()
    if images_per_part < 1:
        raise UserError(f"images_per_part of the stamps is {images_per_part}: choose 1 or more")
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder} of Tux Paint's stamps: run {INSTALL}, or name where they are")
    marks = files_below(folder)
    stamps = list_stamps(folder, marks)
    if not stamps:
        raise UserError(f"{folder} holds no stamps of Tux Paint: run {INSTALL}, or name where they are")
    return [
        make_part(f"stamps-{number:05d}", tuple(stamps[start : start + images_per_part]), marks)
        for number, start in enumerate(range(0, len(stamps), images_per_part))
    ]


def list_stamps(folder: Path, files: dict[Path, str]) -> list[Stamp]:
    """Lists the stamps among the files below a folder, variants left out."""
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
        name: of the part.
        stamps: all of it.
        marks: of every file, what changes when it is written again.
    """
    content = [(stamp.key, marks[stamp.image], stamp.text and marks[stamp.text]) for stamp in stamps]
    return Part(name, fingerprint_of(content), partial(read_stamps, stamps))


def read_stamps(stamps: tuple[Stamp, ...]) -> Iterator[Record | Damage]:
    """Reads stamps, in order.

    Raises:
        OSError: the disk fails, not a file.
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
    """Returns the first line of a stamp's text, or nothing where that is empty or a translation.

    Raises:
        UnicodeDecodeError: it is not UTF-8.
    """
    # Of bytes, which end at a line feed and a carriage return alone; translations below may be of other encodings.
    line = next(iter(content.splitlines()), b"").decode("utf-8-sig")
    return "" if TRANSLATION.match(line.strip()) else " ".join(line.split())
