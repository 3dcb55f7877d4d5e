"""Reads the image files of records, some at a time, from disk or from a bucket."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, NamedTuple, TypeVar

from imagen_jax.data.preparation.file_errors import reason_of
from imagen_jax.data.sources.record_fields import captions_or_damage, scalars_of
from imagen_jax.data.sources.records import Damage, Record
from imagen_jax.errors import UserError
from imagen_jax.storage.paths import Path, in_bucket, read_files

FILES_AT_A_TIME = 16
"""Max number of files in memory at once, which are read from a bucket concurrently."""

MAX_FILE_BYTES = 2**28
"""Max bytes of a local image file, or of an image within a table."""

Item = TypeVar("Item")


class Draft(NamedTuple):
    """A record without the bytes of its image.

    Attributes:
        record: the record, with empty bytes.
        image: path of the image file.
    """

    record: Record
    image: Path


def make_draft(key: str, captions: Sequence[Any], metadata: Mapping[str, Any], image: Path) -> Draft | Damage:
    """Makes a record without the bytes of its image, or returns damage if it has no valid caption."""
    checked = captions_or_damage(key, captions)
    if isinstance(checked, Damage):
        return checked
    return Draft(Record(key, checked, b"", scalars_of(metadata), concept=checked[0].casefold()), image)


def with_images(folder: Path, drafts: Iterable[Record | Draft | Damage]) -> Iterator[Record | Damage]:
    """Yields records with the bytes of their images, which are in ``folder``; passes complete records through.

    Raises:
        UserError: the folder was removed.
    """
    for some in chunks(drafts, FILES_AT_A_TIME):
        contents = iter(read_contents(folder, [one.image for one in some if isinstance(one, Draft)]))
        for one in some:
            yield with_image(one.record, next(contents)) if isinstance(one, Draft) else one


def with_image(record: Record, content: bytes | str) -> Record | Damage:
    """Returns a record with the bytes of its image; returns damage if ``content`` is the reason why it has none."""
    if isinstance(content, str):
        return Damage(record.key, "no image file", content)
    return replace(record, encoded=content) if content else Damage(record.key, "image is empty")


def read_contents(folder: Path, files: Sequence[Path]) -> list[bytes | str]:
    """Returns the contents of files in a folder, or for an unreadable file the reason.

    Raises:
        UserError: the folder was removed.
    """
    if in_bucket(folder):
        try:
            return list(read_files(files))
        except FileNotFoundError:
            pass
    return [read_content(folder, file) for file in files]


def read_content(folder: Path, file: Path) -> bytes | str:
    """Returns the content of a file in a folder, or the reason why it can't be read.

    Raises:
        OSError: the error does not concern a single file.
        UserError: the folder was removed.
    """
    try:
        if not in_bucket(folder) and file.stat().st_size > MAX_FILE_BYTES:
            return f"it is over {MAX_FILE_BYTES} bytes"
        return file.read_bytes()
    # A path with a zero byte raises ValueError.
    except (OSError, ValueError) as error:
        if in_bucket(folder):
            if not isinstance(error, FileNotFoundError):
                raise
            return "it is not in the bucket"
        if not folder.is_dir():
            raise UserError(f"{folder} is gone: bring it back, and run the same command again") from error
        return reason_of(error)


def chunks(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Divides items into lists of ``size``; the last one may be shorter."""
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk
