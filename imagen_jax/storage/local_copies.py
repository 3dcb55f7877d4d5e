"""Local copies of objects in buckets, for libraries that only read local files, such as ArrayRecord and safetensors.

    CACHE/buckets/BUCKET/path/of/the/object    where CACHE is $IMAGEN_JAX_CACHE, or ~/.cache/imagen-jax

A copy has the object's size, and its modification time is the object's generation. Both identify the copy's version:
if the object was rewritten, it is copied again. One rename replaces the old copy, so that files which are open or
mapped keep their content.
"""

import errno
import os
import pathlib
import tempfile

from etils import epath

from imagen_jax.errors import ForNowError, UserError
from imagen_jax.storage.buckets import ObjectInfo, file_system, local_path, object_info, objects_below
from imagen_jax.storage.paths import Path
from imagen_jax.storage.refusals import is_passing

FIXES = {
    errno.ENOSPC: "make room",
    errno.EDQUOT: "make room",
    errno.EACCES: "make it writable",
    errno.EPERM: "make it writable",
    errno.EROFS: "make the disk writable",
}
"""The fix of a disk error, by its number. The fix of any is another cache folder."""


def cache_folder() -> pathlib.Path:
    """Returns the cache folder: ``IMAGEN_JAX_CACHE``, otherwise ``imagen-jax`` in the user's cache folder.

    The user's cache folder is ``XDG_CACHE_HOME`` or ``~/.cache``. Files in it can be created or fetched again.

    Raises:
        UserError: the user has no home folder, and neither ``IMAGEN_JAX_CACHE`` nor ``XDG_CACHE_HOME`` is set.
    """
    try:
        if named := os.environ.get("IMAGEN_JAX_CACHE"):
            return pathlib.Path(named).expanduser()
        return pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "imagen-jax"
    except RuntimeError:
        raise UserError("the user has no home folder: set IMAGEN_JAX_CACHE to a folder for cached files") from None


def local_copy(path: Path) -> pathlib.Path:
    """Returns a local file itself, or the local copy of an object.

    A missing or outdated copy is fetched first, with one line of output.

    Raises:
        FileNotFoundError: the object does not exist.
        UserError: the object can't be copied, for example for lack of disk space.
    """
    if not isinstance(path, epath.Path):
        return path
    copy = copy_of(path)
    copy_missing(path.parent, {path.name: object_info(path)}, copy.parent)
    return copy


def local_folder(folder: Path) -> pathlib.Path:
    """Returns a local folder itself, or a local folder with copies of all objects below a bucket's folder.

    Missing or outdated copies are fetched first, with one line of output. Copies of deleted objects stay.

    Raises:
        UserError: an object can't be copied, for example for lack of disk space.
    """
    if not isinstance(folder, epath.Path):
        return folder
    copy = copy_of(folder)
    copy_missing(folder, objects_below(folder), copy)
    return copy


def working_folder(path: epath.Path) -> pathlib.Path:
    """Creates and returns a local folder for files that ``put_in_bucket`` later uploads to ``path``.

    The folder is on the disk of the cache, so that ``put_in_bucket`` only needs a rename to keep the file as a copy.

    Raises:
        UserError: ``path`` contains ``..``.
    """
    folder = copy_of(path).parent
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def copy_of(path: epath.Path) -> pathlib.Path:
    """Returns the path of an object's local copy.

    Raises:
        UserError: ``path`` contains ``..``, so the copy could lie outside of the cache.
    """
    if ".." in path.parts:
        raise UserError(f"{path} is a path outside its folder: write it without ..")
    return local_path(path, cache_folder() / "buckets")


def copy_missing(folder: epath.Path, objects: dict[str, ObjectInfo], target: pathlib.Path) -> None:
    """Copies the objects below a bucket's folder that have no current copy in ``target``.

    Raises:
        UserError: an object can't be copied, for example for lack of disk space, or was rewritten meanwhile.
        ForNowError: the disk or network error may go away by itself.
        OSError: copying fails without an error number.
    """
    missing = {name: info for name, info in objects.items() if not is_copy(target / name, info)}
    if not missing:
        return
    what = next(iter(missing)) if len(missing) == 1 else f"{len(missing)} files"
    size = sum(info.size for info in missing.values()) / 1e6
    print(f"Copying {what} ({size:.1f} MB) of {folder} to {target}", flush=True)
    try:
        for name, info in missing.items():
            copy_object(folder / name, info, target / name)
    except OSError as error:
        if error.errno is None:
            raise
        kind = ForNowError if is_passing(error) else UserError
        fix = FIXES.get(error.errno, "run the same command again")
        raise kind(
            f"{folder} can't be copied to {target} ({os.strerror(error.errno)}): {fix}, or set IMAGEN_JAX_CACHE to "
            "another folder"
        ) from error


def is_copy(file: pathlib.Path, info: ObjectInfo) -> bool:
    """Returns whether a file is the copy of an object's current generation."""
    if not file.is_file():
        return False
    status = file.stat()
    return status.st_size == info.size and status.st_mtime_ns == time_of_change(info)


def time_of_change(info: ObjectInfo) -> int:
    """Returns the modification time that marks the copy of an object, in nanoseconds since 1970."""
    return info.generation * 1000


def copy_object(path: epath.Path, info: ObjectInfo, copy: pathlib.Path) -> None:
    """Copies one object of exactly the generation in ``info``.

    Raises:
        UserError: the object was rewritten meanwhile.
        OSError: the object can't be copied.
    """
    copy.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=copy.parent) as folder:
        file = pathlib.Path(folder) / copy.name
        file_system().get_file(str(path), str(file))
        if object_info(path) != info or file.stat().st_size != info.size:
            raise UserError(f"{path} was written while it was copied: run the same command again")
        put_copy(file, info, copy)


def put_copy(file: pathlib.Path, info: ObjectInfo, copy: pathlib.Path) -> None:
    """Sets a file's modification time to mark it as the copy of an object, and moves it to ``copy``."""
    os.utime(file, ns=(time_of_change(info), time_of_change(info)))
    os.replace(file, copy)


def put_in_bucket(file: pathlib.Path, path: epath.Path) -> None:
    """Uploads a file from a ``working_folder`` to a bucket, and keeps the file as the object's local copy.

    Raises:
        OSError: the upload fails.
    """
    file_system().put_file(str(file), str(path))
    copy = copy_of(path)
    copy.parent.mkdir(parents=True, exist_ok=True)
    put_copy(file, object_info(path), copy)
