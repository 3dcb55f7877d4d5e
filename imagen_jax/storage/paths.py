"""Both kinds of path, and what differs between them.

A path of this machine is a ``pathlib.Path``, one in a bucket an ``epath.Path``; both are read, listed and joined alike.
``Path`` here is the pair of them, for annotations. It can't be called: text becomes a path in ``to_path`` alone, since
``pathlib.Path`` would take ``gs://BUCKET/x`` for the folder ``gs:`` of this machine.

Nothing is ever half written under its own name: on a disk it is written beside it and renamed, and a bucket shows an
object only when its last byte has come. A disk has it whole before the name is given, so a power cut leaves no half.
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


def same_place(one: str | Path | None, other: str | Path | None) -> bool:
    """Whether two texts name one place: relative or not, with a slash at the end, by a symbolic link.

    Raises:
        UserError: one names a place of another kind than we know.
    """
    if not one or not other:
        return one == other
    paths = [absolute(to_path(text).expanduser()) for text in (one, other)]
    return paths[0] == paths[1] or paths[0].resolve() == paths[1].resolve()


def split_places(text: str) -> list[str]:
    """The places that a text names, with commas between them; a comma within the name of one that exists parts nothing.

    Raises:
        UserError: one names a place of another kind than we know.
    """
    pieces = text.split(",")
    places = []
    while pieces:
        # The longest name first; a piece that names a bucket begins a place of its own.
        bucket = next((number for number, one in enumerate(pieces) if number and one.strip().startswith(PREFIX)), None)
        lengths = range(len(pieces) if bucket is None else bucket, 1, -1)
        names = (",".join(pieces[:length]).strip() for length in lengths)
        name = next((name for name in names if to_path(name).expanduser().exists()), pieces[0].strip())
        places.append(name)
        pieces = pieces[name.count(",") + 1 :]
    return places


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


class Listing(NamedTuple):
    """What lies below a folder, without what operating systems add, see ``names.is_of_system``.

    Attributes:
        files: in order, each with a mark that changes when the file is written again.
        left_out: links and folders whose files are not listed, each with the reason.
    """

    files: dict[Path, str]
    left_out: dict[Path, str]


def list_below(folder: Path) -> Listing:
    """Lists all files below a folder; of a folder that is not there, none.

    Links to folders are followed. Each folder is listed once: under its own name, else under the first link's. A link
    to a folder above this one is left out.

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
        # Links last, so that what lies in the folder itself keeps its own name.
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
    """Notes a path that may not be looked into, is gone meanwhile, or is a link to itself."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.ENOENT, errno.ELOOP):
            raise
        left_out[path] = error.strerror or str(error)


def files_below(folder: Path) -> dict[Path, str]:
    """The files of ``list_below``."""
    return list_below(folder).files


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
    """The files that lie in a folder, not deeper, by name, without those that operating systems add.

    There are none where there is no such folder.
    """
    if isinstance(folder, epath.Path):
        return [folder / name for name in objects_below(folder) if "/" not in name and not is_of_system(name)]
    files = folder.iterdir() if folder.is_dir() else ()
    return sorted(path for path in files if path.is_file() and not is_of_system(path.name))


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
