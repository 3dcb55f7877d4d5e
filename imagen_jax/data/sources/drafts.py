"""Records that lack the bytes of their images, and how they get them: some files at a time, also from a bucket."""

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
"""That are held in memory at once, and asked of a bucket side by side."""

MAX_FILE_BYTES = 2**28
"""Bytes."""

Item = TypeVar("Item")


class Draft(NamedTuple):
    """A record that lacks the bytes of its image.

    Attributes:
        record: all else of it.
        image: where the image is.
    """

    record: Record
    image: Path


def make_draft(key: str, captions: Sequence[Any], metadata: Mapping[str, Any], image: Path) -> Draft | Damage:
    """Makes a record that lacks the bytes of its image, if its captions are good."""
    checked = captions_or_damage(key, captions)
    if isinstance(checked, Damage):
        return checked
    return Draft(Record(key, checked, b"", scalars_of(metadata), concept=checked[0].casefold()), image)


def with_images(folder: Path, drafts: Iterable[Record | Draft | Damage]) -> Iterator[Record | Damage]:
    """Gives records with the bytes of their images, which lie in a folder; records that have them stay as they are.

    Raises:
        UserError: the folder is gone.
    """
    for some in chunks(drafts, FILES_AT_A_TIME):
        contents = iter(read_contents(folder, [one.image for one in some if isinstance(one, Draft)]))
        for one in some:
            yield with_image(one.record, next(contents)) if isinstance(one, Draft) else one


def with_image(record: Record, content: bytes | str) -> Record | Damage:
    """Gives a record the bytes of its image; or says that they are missing, where there is only a reason."""
    if isinstance(content, str):
        return Damage(record.key, "no image file", content)
    return replace(record, encoded=content) if content else Damage(record.key, "image is empty")


def read_contents(folder: Path, files: Sequence[Path]) -> list[bytes | str]:
    """The contents of files in a folder; where there is none or it can't be read, the reason.

    Raises:
        UserError: the folder is gone.
    """
    if in_bucket(folder):
        try:
            return list(read_files(files))
        except FileNotFoundError:
            pass
    return [read_content(folder, file) for file in files]


def read_content(folder: Path, file: Path) -> bytes | str:
    """The content of a file in a folder, or the reason why there is none.

    Raises:
        OSError: it is not the file's own matter.
        UserError: the folder is gone.
    """
    try:
        if not in_bucket(folder) and file.stat().st_size > MAX_FILE_BYTES:
            return f"it is over {MAX_FILE_BYTES} bytes"
        return file.read_bytes()
    # A path with a zero byte is a ValueError.
    except (OSError, ValueError) as error:
        if in_bucket(folder):
            if not isinstance(error, FileNotFoundError):
                raise
            return "it is not in the bucket"
        if not folder.is_dir():
            raise UserError(f"{folder} is gone: bring it back, and run the same command again") from error
        return reason_of(error)


def chunks(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Divides items into lists of that size; the last one may be shorter."""
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk
