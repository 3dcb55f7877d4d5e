"""Copies of what lies in buckets, for libraries that read files of this machine: ArrayRecord and safetensors map them.

    $IMAGEN_JAX_CACHE, or ~/.cache/imagen-jax, /buckets/BUCKET/path/of/the/object

A copy has the object's size, and its time of change is the object's generation. So it is known for what it is, is
copied again when the object was written again, and changes from the one to the other in one rename. What has been
opened or mapped stays as it was.
"""

import os
import pathlib
import tempfile

from etils import epath

from imagen_jax.errors import UserError
from imagen_jax.storage.buckets import ObjectInfo, file_system, local_place, object_info, objects_below
from imagen_jax.storage.paths import Path


def cache_folder() -> pathlib.Path:
    """Where this program keeps what it can make or fetch again: ``IMAGEN_JAX_CACHE``, or else the user's cache.

    Raises:
        UserError: the user has no home folder, and neither ``IMAGEN_JAX_CACHE`` nor ``XDG_CACHE_HOME`` is set.
    """
    try:
        if named := os.environ.get("IMAGEN_JAX_CACHE"):
            return pathlib.Path(named).expanduser()
        return pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "imagen-jax"
    except RuntimeError:
        raise UserError("the user has no home folder: set IMAGEN_JAX_CACHE to a folder for what is kept") from None


def local_copy(path: Path) -> pathlib.Path:
    """A file itself, or the copy of an object; copied if it is not there yet, which one line of output says.

    Raises:
        OSError: there is no such object.
        UserError: there is no room for it.
    """
    if not isinstance(path, epath.Path):
        return path
    place = place_of(path)
    copy_missing(path.parent, {path.name: object_info(path)}, place.parent)
    return place


def local_folder(folder: Path) -> pathlib.Path:
    """A folder itself, or one with copies of all objects below it, as ``local_copy`` makes them.

    What was deleted in the bucket is left in the copy.

    Raises:
        UserError: there is no room for it.
    """
    if not isinstance(folder, epath.Path):
        return folder
    place = place_of(folder)
    copy_missing(folder, objects_below(folder), place)
    return place


def working_folder(path: epath.Path) -> pathlib.Path:
    """A folder of this machine in which what goes to ``path`` is made; from there ``put_in_bucket`` only renames."""
    folder = place_of(path).parent
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def place_of(path: epath.Path) -> pathlib.Path:
    """Where the copy of a path lies.

    Raises:
        UserError: it would lie elsewhere.
    """
    if ".." in path.parts:
        raise UserError(f"{path} leads out of its folder: name it without ..")
    return local_place(path, cache_folder() / "buckets")


def copy_missing(folder: epath.Path, objects: dict[str, ObjectInfo], place: pathlib.Path) -> None:
    """Copies those objects below a folder that have no copy in ``place``.

    Raises:
        UserError: there is no room for them.
    """
    missing = {name: info for name, info in objects.items() if not is_copy(place / name, info)}
    if not missing:
        return
    what = next(iter(missing)) if len(missing) == 1 else f"{len(missing)} files"
    size = sum(info.size for info in missing.values()) / 1e6
    print(f"Copying {what} ({size:.1f} MB) of {folder} to {place}", flush=True)
    try:
        for name, info in missing.items():
            copy_object(folder / name, info, place / name)
    except OSError as error:
        if error.errno is None:
            raise
        raise UserError(
            f"{folder} can't be copied to {place} ({error.strerror}): make room, or name another IMAGEN_JAX_CACHE"
        ) from error


def is_copy(file: pathlib.Path, info: ObjectInfo) -> bool:
    """Whether a file is the copy of an object as it is now."""
    if not file.is_file():
        return False
    status = file.stat()
    return status.st_size == info.size and status.st_mtime_ns == time_of_change(info)


def time_of_change(info: ObjectInfo) -> int:
    """What a copy is marked with, in nanoseconds since 1970."""
    return info.generation * 1000


def copy_object(path: epath.Path, info: ObjectInfo, place: pathlib.Path) -> None:
    """Copies one object, of exactly that generation.

    Raises:
        OSError: the object was replaced meanwhile, or can't be copied.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=place.parent) as folder:
        file = pathlib.Path(folder) / place.name
        file_system().get_file(str(path), str(file))
        if object_info(path) != info or file.stat().st_size != info.size:
            raise UserError(f"{path} was written while it was copied: run the same command again")
        give_place(file, info, place)


def give_place(file: pathlib.Path, info: ObjectInfo, place: pathlib.Path) -> None:
    """Marks a file as the copy of an object, and puts it in its place."""
    os.utime(file, ns=(time_of_change(info), time_of_change(info)))
    os.replace(file, place)


def put_in_bucket(file: pathlib.Path, path: epath.Path) -> None:
    """Moves a file out of a ``working_folder`` into a bucket; what was the file becomes its copy.

    Raises:
        OSError: the bucket does not take it.
    """
    file_system().put_file(str(file), str(path))
    place = place_of(path)
    place.parent.mkdir(parents=True, exist_ok=True)
    give_place(file, object_info(path), place)
