"""Local paths and bucket paths, and the operations that differ between them.

A local path is a ``pathlib.Path``, and a path in a bucket is an ``epath.Path``. Both have the same methods for reading,
listing and joining. ``Path`` is the union of both types, for annotations; it can't be called. Only ``to_path`` converts
text to a path, because ``pathlib.Path`` would read ``gs://BUCKET/x`` as the local folder ``gs:``.

No file is ever incomplete under its final name. On a disk it is written under a temporary name, synced and then
renamed, so even a power cut leaves no partial file. A bucket shows an object only after its last byte has arrived.
"""

import errno
import hashlib
import os
import pathlib
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, TypeAlias

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
from imagen_jax.storage.names import is_of_system

Path: TypeAlias = pathlib.Path | epath.Path

SCHEME_OF_TEXT = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")


def to_path(path: str | Path) -> Path:
    """Converts text to a local path or a path in a bucket.

    Raises:
        UserError: the text has another scheme than ``gs``, the bucket's name is invalid, or gcsfs is not installed.
    """
    if isinstance(path, epath.Path):
        return path
    text = str(path)
    if text.startswith(PREFIX):
        return open_bucket_path(text)
    if SCHEME_OF_TEXT.match(text):
        raise UserError(f"{text} is neither a folder of this machine nor in a bucket: give one, as in {PREFIX}BUCKET/x")
    return pathlib.Path(path)


def in_bucket(path: Path) -> bool:
    """Returns whether a path is in a bucket."""
    return isinstance(path, epath.Path)


def absolute(path: Path) -> Path:
    """Returns the absolute path."""
    return path if isinstance(path, epath.Path) else path.absolute()


def same_place(one: str | Path | None, other: str | Path | None) -> bool:
    """Returns whether two texts name the same path.

    Relative paths, trailing slashes, ``~`` and symbolic links are resolved. Empty text and None equal only themselves.

    Raises:
        UserError: as in ``to_path``.
    """
    if not one or not other:
        return one == other
    paths = [absolute(to_path(text).expanduser()) for text in (one, other)]
    return paths[0] == paths[1] or paths[0].resolve() == paths[1].resolve()


def split_places(text: str) -> list[str]:
    """Splits text at commas into paths. It does not split at a comma in the name of an existing path.

    Raises:
        UserError: as in ``to_path``.
    """
    pieces = text.split(",")
    paths = []
    while pieces:
        # Tries the longest name first. A piece that starts with the scheme ``gs`` always starts a new path.
        bucket = next((number for number, one in enumerate(pieces) if number and one.strip().startswith(PREFIX)), None)
        lengths = range(len(pieces) if bucket is None else bucket, 1, -1)
        names = (",".join(pieces[:length]).strip() for length in lengths)
        name = next((name for name in names if to_path(name).expanduser().exists()), pieces[0].strip())
        paths.append(name)
        pieces = pieces[name.count(",") + 1 :]
    return paths


def size_of(path: Path) -> int:
    """Returns the size of a file in bytes.

    Raises:
        OSError: the file does not exist or can't be read.
    """
    return object_info(path).size if isinstance(path, epath.Path) else path.stat().st_size


def read_ranges(path: Path, starts: Sequence[int], length: int) -> list[bytes]:
    """Reads ``length`` bytes of a file from each offset in ``starts``, or fewer at the end of the file.

    The ranges of an object in a bucket are requested concurrently.
    """
    if isinstance(path, epath.Path):
        return read_object_ranges(path, starts, length)
    blocks = []
    with path.open("rb") as file:
        for start in starts:
            file.seek(start)
            blocks.append(file.read(length))
    return blocks


class Listing(NamedTuple):
    """The files below a folder, without files that operating systems add (``names.is_of_system``).

    Attributes:
        files: paths of the files, sorted, each with a mark that changes when the file is rewritten (``mark_of``).
        left_out: skipped files, links and folders, each with the reason.
    """

    files: dict[Path, str]
    left_out: dict[Path, str]


def list_below(folder: Path) -> Listing:
    """Lists all files below a folder. A missing folder has no files.

    Links to folders are followed. Each folder is listed once: under its own name if it lies below ``folder``, otherwise
    under the name of the first link to it. A link to a folder above ``folder`` is skipped.

    Raises:
        OSError: the disk fails.
    """
    if isinstance(folder, epath.Path):
        found = objects_below(folder)
        marks = {folder / name: info.mark for name, info in found.items() if not is_of_system(name)}
        return Listing(dict(sorted(marks.items())), {})
    files: dict[Path, str] = {}
    left_out: dict[Path, str] = {}
    root = folder.resolve()
    seen = {root}
    waiting, links = [folder], list[pathlib.Path]()
    while waiting or links:
        # Links come last, so that folders below this one are listed under their own names.
        here = waiting.pop() if waiting else links.pop(0)
        if here is not folder:
            target = here.resolve()
            if target in seen:
                continue
            if root.is_relative_to(target):
                left_out[here] = f"a link to {target}, which lies above"
                continue
            seen.add(target)
        with _left_out_where_refused(here, left_out):
            for entry in sorted(os.scandir(here), key=lambda entry: entry.name):
                path = here / entry.name
                if is_of_system(entry.name):
                    continue
                with _left_out_where_refused(path, left_out):
                    if entry.is_dir():
                        (links if entry.is_symlink() else waiting).append(path)
                    elif entry.is_file():
                        files[path] = mark_of(path)
                    elif entry.is_symlink():
                        left_out[path] = "a link that leads nowhere"
    return Listing(dict(sorted(files.items())), dict(sorted(left_out.items())))


@contextmanager
def _left_out_where_refused(path: Path, left_out: dict[Path, str]) -> Iterator[None]:
    """Adds the path to ``left_out`` if the block can't read it, because of permissions, deletion or a link loop.

    Raises:
        OSError: the block fails for another reason.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.ENOENT, errno.ELOOP):
            raise
        left_out[path] = error.strerror or str(error)


def files_below(folder: Path) -> dict[Path, str]:
    """Returns the files below a folder with their marks, as in ``list_below``."""
    return list_below(folder).files


def mark_of(file: Path) -> str:
    """Returns a mark that changes when a file is rewritten: its size and modification time, or its generation.

    Raises:
        OSError: the file does not exist or can't be read.
    """
    if isinstance(file, epath.Path):
        return object_info(file).mark
    status = file.stat()
    return f"{status.st_size} {status.st_mtime_ns}"


def checksum_of(file: pathlib.Path) -> str:
    """Returns the SHA-256 of a local file, in hexadecimal digits."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_files(paths: Sequence[Path]) -> list[bytes]:
    """Reads many small files. Objects in buckets are requested concurrently.

    Raises:
        FileNotFoundError: a file does not exist.
    """
    in_buckets = [path for path in paths if isinstance(path, epath.Path)]
    contents = dict(zip(in_buckets, read_objects(in_buckets), strict=True))
    return [contents[path] if path in contents else path.read_bytes() for path in paths]


def files_in(folder: Path) -> list[Path]:
    """Returns the files directly in a folder, sorted by name, without files that operating systems add.

    A missing folder has no files.
    """
    if isinstance(folder, epath.Path):
        return [folder / name for name in objects_below(folder) if "/" not in name and not is_of_system(name)]
    files = folder.iterdir() if folder.is_dir() else ()
    return sorted(path for path in files if path.is_file() and not is_of_system(path.name))


def array_store(folder: Path) -> dict[str, str]:
    """Returns the tensorstore key-value store spec of a folder."""
    if isinstance(folder, epath.Path):
        bucket, *names = folder.parts[2:]
        return {"driver": "gcs", "bucket": bucket, "path": "/".join(names) + "/"}
    return {"driver": "file", "path": str(folder)}


def create_folder(folder: Path) -> None:
    """Creates a local folder and its parents. For a path in a bucket, checks that the bucket exists.

    Raises:
        OSError: the folder can't be created.
        UserError: the bucket does not exist or does not answer.
    """
    if isinstance(folder, epath.Path):
        check_bucket(folder)
    else:
        folder.mkdir(parents=True, exist_ok=True)


def remove_folder(folder: Path) -> None:
    """Removes a folder and its content.

    Raises:
        OSError: the folder can't be removed.
    """
    if isinstance(folder, epath.Path):
        folder.rmtree(missing_ok=True)
    else:
        shutil.rmtree(folder)


def move_folder(folder: Path, target: Path) -> None:
    """Renames a folder on the same disk. In a bucket, copies every object and removes the originals.

    Raises:
        OSError: the folder can't be moved.
    """
    if isinstance(folder, epath.Path):
        file_system().copy(str(folder), str(target), recursive=True)
        file_system().rm(str(folder), recursive=True)
    else:
        os.replace(folder, target)


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file atomically: it appears only when it is complete.

    Raises:
        OSError: the file can't be written.
    """
    with writing(path) as file:
        file.write_bytes(content)


def copy_files(source: pathlib.Path, folder: Path) -> None:
    """Copies all files below a local folder to another folder, local or in a bucket.

    Raises:
        OSError: a file can't be read or written.
    """
    for file in files_below(source):
        write_whole(folder / file.relative_to(source).as_posix(), file.read_bytes())


ALL_PERMISSIONS = 0o777
"""The permission bits of a file's mode."""

UNFINISHED = re.compile(r"\.\d+\.unfinished\.")
"""Matches the start of the temporary name of an unfinished file."""


@contextmanager
def writing(path: Path) -> Iterator[pathlib.Path]:
    """Yields a local file to write, which becomes ``path`` when the block ends without an error.

    The local file has the same suffix as ``path``.

    Raises:
        OSError: the file can't be written or uploaded.
    """
    if isinstance(path, epath.Path):
        with tempfile.TemporaryDirectory() as folder:
            file = pathlib.Path(folder) / path.name
            yield file
            file_system().put_file(str(file), str(path))
        return
    unfinished = path.with_name(f".{os.getpid()}.unfinished.{path.name}")  # matches UNFINISHED
    try:
        # We create the file here to get the default permissions. A library may replace it: safetensors creates a file
        # that only its owner may read.
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
    """Removes unfinished files from a folder, which a killed program has left behind.

    No other process may be writing to the folder. A bucket never contains unfinished files.

    Raises:
        OSError: a file can't be removed.
    """
    for path in files_in(folder):
        if UNFINISHED.match(path.name):
            path.unlink(missing_ok=True)


def sync(path: pathlib.Path) -> None:
    """Syncs a file's content or a folder's entries to the disk, so that they survive a power cut.

    Raises:
        OSError: the sync fails.
    """
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def sync_all(folder: pathlib.Path) -> None:
    """Syncs a folder, and all files and folders below it, to the disk.

    Raises:
        OSError: the sync fails.
    """
    for path in [*folder.rglob("*"), folder]:
        sync(path)
