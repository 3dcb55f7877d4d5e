"""Both kinds of path, and what differs between them.

A path of this machine is a ``pathlib.Path``, one in a bucket an ``epath.Path``; both are read, listed and joined alike.
``Path`` here is the pair of them, for annotations. It can't be called: text becomes a path in ``to_path`` alone, since
``pathlib.Path`` would take ``gs://BUCKET/x`` for the folder ``gs:`` of this machine.

Nothing is ever half written under its own name: on a disk it is written beside it and renamed, and a bucket shows an
object only when its last byte has come. A disk has it whole before the name is given, so a power cut leaves no half.
"""

import hashlib
import os
import pathlib
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeAlias

from etils import epath

from imagen_jax.errors import UserError
from imagen_jax.storage.buckets import (
    PREFIX,
    check_bucket,
    file_system,
    object_info,
    objects_below,
    open_bucket_path,
    read_object_ranges,
    read_objects,
)

Path: TypeAlias = pathlib.Path | epath.Path

SCHEME_OF_TEXT = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")


def to_path(place: str | Path) -> Path:
    """The path that a text names, of this machine or in a bucket.

    Raises:
        UserError: it names a place of another kind, or a bucket that can't be opened.
    """
    if isinstance(place, epath.Path):
        return place
    text = str(place)
    if text.startswith(PREFIX):
        return open_bucket_path(text)
    if SCHEME_OF_TEXT.match(text):
        raise UserError(f"{text} is neither a folder of this machine nor in a bucket: give one, as in {PREFIX}BUCKET/x")
    return pathlib.Path(place)


def in_bucket(path: Path) -> bool:
    """Whether a path lies in a bucket."""
    return isinstance(path, epath.Path)


def absolute(path: Path) -> Path:
    """The path from the root of its file system on."""
    return path if isinstance(path, epath.Path) else path.absolute()


def size_of(path: Path) -> int:
    """Bytes of a file.

    Raises:
        OSError: it is not there.
    """
    return object_info(path).size if isinstance(path, epath.Path) else path.stat().st_size


def read_ranges(path: Path, starts: Sequence[int], length: int) -> list[bytes]:
    """``length`` bytes of a file, or what is left, from each of ``starts`` on; of an object side by side."""
    if isinstance(path, epath.Path):
        return read_object_ranges(path, starts, length)
    blocks = []
    with path.open("rb") as file:
        for start in starts:
            file.seek(start)
            blocks.append(file.read(length))
    return blocks


def files_below(folder: Path) -> dict[Path, str]:
    """All files below a folder, in order, each with a mark that changes when the file is written again."""
    if isinstance(folder, epath.Path):
        found = objects_below(folder)
        marks = {folder / name: info.mark for name, info in found.items()}
    else:
        marks = {path: mark_of(path) for path in folder.rglob("*") if path.is_file()}
    return dict(sorted(marks.items()))


def mark_of(file: Path) -> str:
    """What changes when a file is written again: its size, and its time or generation.

    Raises:
        OSError: it is not there.
    """
    if isinstance(file, epath.Path):
        return object_info(file).mark
    status = file.stat()
    return f"{status.st_size} {status.st_mtime_ns}"


def checksum_of(file: pathlib.Path) -> str:
    """The sha256 of a file of this machine, in hexadecimal digits."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_files(paths: Sequence[Path]) -> list[bytes]:
    """The contents of many small files; of those in a bucket many are asked for at once.

    Raises:
        FileNotFoundError: one is not there.
    """
    in_buckets = [path for path in paths if isinstance(path, epath.Path)]
    contents = dict(zip(in_buckets, read_objects(in_buckets), strict=True))
    return [contents[path] if path in contents else path.read_bytes() for path in paths]


def files_in(folder: Path) -> list[Path]:
    """The files that lie in a folder, not deeper, by name; none where there is no such folder."""
    if isinstance(folder, epath.Path):
        return [folder / name for name in objects_below(folder) if "/" not in name]
    return sorted(path for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []


def array_store(folder: Path) -> dict[str, str]:
    """What tensorstore calls a folder."""
    if isinstance(folder, epath.Path):
        bucket, *names = folder.parts[2:]
        return {"driver": "gcs", "bucket": bucket, "path": "/".join(names) + "/"}
    return {"driver": "file", "path": str(folder)}


def create_folder(folder: Path) -> None:
    """Makes a folder and those above it; a bucket, which has none, must be there and is never made.

    Raises:
        OSError: it can't be made.
        UserError: there is no such bucket.
    """
    if isinstance(folder, epath.Path):
        check_bucket(folder)
    else:
        folder.mkdir(parents=True, exist_ok=True)


def remove_folder(folder: Path) -> None:
    """Removes a folder with all that is in it.

    Raises:
        OSError: it can't be removed.
    """
    if isinstance(folder, epath.Path):
        folder.rmtree(missing_ok=True)
    else:
        shutil.rmtree(folder)


def move_folder(folder: Path, target: Path) -> None:
    """Gives a folder another name on the same disk or in the same bucket, where each object is copied and removed.

    Raises:
        OSError: it can't be moved.
    """
    if isinstance(folder, epath.Path):
        file_system().copy(str(folder), str(target), recursive=True)
        file_system().rm(str(folder), recursive=True)
    else:
        os.replace(folder, target)


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file that is seen only when it is whole.

    Raises:
        OSError: it can't be written.
    """
    with writing(path) as file:
        file.write_bytes(content)


def copy_files(source: pathlib.Path, folder: Path) -> None:
    """Writes all files below a folder of this machine below another folder, of whichever kind.

    Raises:
        OSError: one can't be written.
    """
    for file in files_below(source):
        write_whole(folder / file.relative_to(source).as_posix(), file.read_bytes())


ALL_PERMISSIONS = 0o777
"""The bits of a file's mode that say who may do what with it."""

UNFINISHED = re.compile(r"\.\d+\.unfinished\.")
"""How the name of a file begins that is being written."""


@contextmanager
def writing(path: Path) -> Iterator[pathlib.Path]:
    """Gives a file of this machine to write, of the same ending, which becomes ``path`` when the block ends well.

    Raises:
        OSError: it can't be written, or the bucket does not take it.
    """
    if isinstance(path, epath.Path):
        with tempfile.TemporaryDirectory() as folder:
            file = pathlib.Path(folder) / path.name
            yield file
            file_system().put_file(str(file), str(path))
        return
    unfinished = path.with_name(f".{os.getpid()}.unfinished.{path.name}")  # as UNFINISHED has it
    try:
        # Made here, so that its permissions are those of any new file. A library may put another file in its place:
        # that of safetensors makes one which nobody else may read.
        unfinished.unlink(missing_ok=True)
        unfinished.touch()
        permissions = unfinished.stat().st_mode & ALL_PERMISSIONS
        yield unfinished
        if unfinished.stat().st_mode & ALL_PERMISSIONS != permissions:
            unfinished.chmod(permissions)
        sync(unfinished)
        os.replace(unfinished, path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def remove_unfinished(folder: Path) -> None:
    """Removes what a program left of a file in a folder that it was writing when it was killed.

    To be called when nobody writes there. A bucket has none.

    Raises:
        OSError: it can't be removed.
    """
    for path in files_in(folder):
        if UNFINISHED.match(path.name):
            path.unlink(missing_ok=True)


def sync(path: pathlib.Path) -> None:
    """Waits until the disk has a file's content, or what a folder lists, so that a power cut loses neither.

    Raises:
        OSError: the disk can't take it.
    """
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def sync_all(folder: pathlib.Path) -> None:
    """The same for all that is below a folder, and the folder itself.

    Raises:
        OSError: the disk can't take it.
    """
    for path in [*folder.rglob("*"), folder]:
        sync(path)
