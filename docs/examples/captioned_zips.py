"""A data source: zip files of images that are named by their captions, such as ``a red apple.png``."""

import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import PurePosixPath

from imagen_jax.data.sources.records import Damage, Part, Record, fingerprint_of
from imagen_jax.errors import UserError
from imagen_jax.storage.paths import Path, mark_of, to_path

ATTRIBUTION = "The user's own images"
IMAGES = (".jpg", ".jpeg", ".png", ".webp")


def captioned_zip_parts(folder: str | Path) -> list[Part]:
    """Lists the zip files of a folder as parts, ordered by name.

    Args:
        folder: folder of the zip files, here or in a bucket.

    Raises:
        UserError: the folder has no zip file.
    """
    folder = to_path(folder).expanduser()
    files = sorted(folder.glob("*.zip"))
    if not files:
        raise UserError(f"{folder} has no zip files: name their folder in --option=folder=FOLDER")
    return [Part(file.name, fingerprint_of(mark_of(file)), partial(read_zip, file)) for file in files]


def read_zip(file: Path) -> Iterator[Record | Damage]:
    """Yields a record for each image of a zip file, in the order of their names."""
    try:
        with file.open("rb") as stream, zipfile.ZipFile(stream) as archive:
            for name in sorted(archive.namelist()):
                if PurePosixPath(name).suffix.lower() in IMAGES:
                    yield make_record(f"{file.stem}/{name}", archive.read(name))
    except zipfile.BadZipFile as error:
        yield Damage(file.name, "zip file is damaged", str(error))


def make_record(key: str, encoded: bytes) -> Record | Damage:
    """Makes a record, whose caption is the name without digits, ``_`` and ending."""
    words = PurePosixPath(key).stem.replace("_", " ").strip(" 0123456789")
    if not words:
        return Damage(key, "no caption")
    return Record(key, (words,), encoded, concept=words.casefold())
