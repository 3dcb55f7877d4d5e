"""The file system of buckets: gcsfs, which etils' paths use too, and what ours ask of it beyond a path's methods."""

import importlib.util
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import fsspec
from etils import epath

from imagen_jax.errors import ForNowError, UserError
from imagen_jax.storage.names import stays_below
from imagen_jax.storage.refusals import is_denied

SCHEME = "gs"
PREFIX = f"{SCHEME}://"
INSTALL = 'pip install "gcsfs>=2026.10,<2027"'
BUCKET_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")

MENDS = "check the bucket's name, your login (gcloud auth application-default login) and what you may do there"


class ObjectInfo(NamedTuple):
    """What a bucket says of an object.

    Attributes:
        size: in bytes.
        generation: a number that every write of the object makes anew: its microseconds since 1970.
    """

    size: int
    generation: int

    @property
    def mark(self) -> str:
        """What changes when the object is written again."""
        return f"{self.size} {self.generation}"


def open_bucket_path(text: str) -> epath.Path:
    """The path that ``gs://BUCKET/…`` names; nothing is asked of the bucket yet.

    Raises:
        UserError: no bucket can have that name, or gcsfs is not installed.
    """
    bucket = text.removeprefix(PREFIX).partition("/")[0]
    if not BUCKET_NAME.fullmatch(bucket):
        raise UserError(f"{text!r} names no bucket: give it as in {PREFIX}BUCKET/FOLDER")
    if importlib.util.find_spec("gcsfs") is None:
        raise UserError(f"{text} lies in a bucket, and gcsfs is not installed: {INSTALL}")
    # Where TensorFlow is installed, etils would take its file system; ours should be the same everywhere.
    os.environ.setdefault("EPATH_USE_TF", "false")
    # A remembered listing knows nothing of what others write: the arrays of a checkpoint come from tensorstore.
    fsspec.config.conf.setdefault("gcs", {}).setdefault("use_listings_cache", False)
    return epath.Path(text)


def file_system() -> Any:
    """The file system, the same that etils uses."""
    return fsspec.filesystem("gcs", finalize_on_close=True)


def object_info(path: epath.Path) -> ObjectInfo:
    """What the bucket says of an object.

    Raises:
        FileNotFoundError: it is not there.
    """
    return read_info(file_system().info(str(path)))


def read_info(info: dict[str, Any]) -> ObjectInfo:
    """Size and generation among all that the bucket says."""
    return ObjectInfo(int(info["size"]), int(info["generation"]))


def objects_below(folder: epath.Path) -> dict[str, ObjectInfo]:
    """The objects below a folder, by their names from there on, sorted; one request for each thousand of them.

    Raises:
        UserError: a name leads out of the folder.
    """
    prefix = f"{str(folder).removeprefix(PREFIX).rstrip('/')}/"
    found = file_system().find(str(folder), detail=True)
    # A name that ends in a slash is how other programs mark a folder.
    names = sorted(name for name in found if name.startswith(prefix) and not name.endswith("/"))
    objects = {name.removeprefix(prefix): read_info(found[name]) for name in names}
    for name in objects:
        # An object may have any name, and copies of it would lie anywhere on this machine.
        if not stays_below(name):
            raise UserError(f"{folder} holds an object {name!a}, whose name leads out of it: remove that object")
    return objects


def read_objects(paths: Sequence[epath.Path]) -> list[bytes]:
    """The contents of many small objects, asked for side by side.

    Raises:
        FileNotFoundError: one is not there.
    """
    names = [str(path).removeprefix(PREFIX) for path in paths]
    contents = file_system().cat(names) if names else {}
    return [contents[name] if isinstance(contents, dict) else contents for name in names]


def read_object_ranges(path: epath.Path, starts: Sequence[int], length: int) -> list[bytes]:
    """``length`` bytes, or what is left, from each of ``starts`` on, asked for side by side."""
    return file_system().cat_ranges([str(path)] * len(starts), list(starts), [start + length for start in starts])


def write_generation(path: epath.Path, content: bytes, before: int) -> int | None:
    """Writes a small object over one generation of it.

    Args:
        path: of the object.
        content: its bytes.
        before: the generation; 0: it must not be there.

    Returns:
        The new generation; None where there is another than ``before``.
    """
    files = file_system()
    bucket, _, name = str(path).removeprefix(PREFIX).partition("/")
    place = f"{files._location}/upload/storage/v1/b/{bucket}/o"
    try:
        said = files.call(
            "POST", place, uploadType="media", name=name, ifGenerationMatch=before, data=content, json_out=True
        )
    except FileExistsError:
        # How gcsfs calls an unmet precondition.
        return None
    return int(said["generation"])


def delete_generation(path: epath.Path, generation: int) -> None:
    """Deletes an object, if it is still of that generation."""
    bucket, _, name = str(path).removeprefix(PREFIX).partition("/")
    with suppress(FileNotFoundError, FileExistsError):
        file_system().call("DELETE", "b/{}/o/{}", bucket, name, ifGenerationMatch=generation)


def check_bucket(path: epath.Path) -> None:
    """Checks that the bucket of a path is there.

    Raises:
        UserError: it is not, or may not be asked.
    """
    bucket = f"{PREFIX}{path.parts[2]}"
    try:
        there = file_system().exists(bucket)
    except Exception as error:
        if not is_refusal(error):
            raise
        kind = UserError if is_denied(error) else ForNowError
        raise kind(f"{bucket} does not answer ({summarise_error(error)}): {MENDS}") from error
    if not there:
        raise UserError(f"there is no bucket {bucket}, or you may not see it: {MENDS}")


def is_refusal(error: BaseException) -> bool:
    """Whether an error is a bucket's: it was raised below gcsfs, or is one that tensorstore had from Google."""
    passed = False
    trace: TracebackType | None = error.__traceback__
    while trace is not None and not passed:
        passed = f"{os.sep}gcsfs{os.sep}" in trace.tb_frame.f_code.co_filename
        trace = trace.tb_next
    return passed or bool(re.search(rf"{PREFIX}|/storage/v1/", str(error)))


def explain_refusal(error: BaseException) -> str:
    """A sentence for a bucket's refusal."""
    return f"a bucket refused ({summarise_error(error)}): {MENDS}, then run the same command again"


def summarise_error(error: BaseException) -> str:
    """The first line of an error, without what surrounds the reason."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return line.partition(" [")[0]


def local_place(path: epath.Path, root: Path) -> Path:
    """Where the copy of a path lies below a folder of this machine."""
    return root.joinpath(*path.parts[2:])
