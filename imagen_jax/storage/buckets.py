"""Google Cloud Storage through gcsfs: operations on buckets and objects that ``epath.Path`` lacks."""

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
from imagen_jax.errors.packages import missing_package
from imagen_jax.storage.names import stays_below
from imagen_jax.storage.refusals import is_denied

SCHEME = "gs"
PREFIX = f"{SCHEME}://"
BUCKET_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")

BUCKET_ADVICE = "check the bucket's name, your login (gcloud auth application-default login) and your permissions"


class ObjectInfo(NamedTuple):
    """The metadata of an object in a bucket.

    Attributes:
        size: size in bytes.
        generation: version number, which every write of the object renews: microseconds since 1970.
    """

    size: int
    generation: int

    @property
    def mark(self) -> str:
        """Text that changes when the object is rewritten: its size and generation."""
        return f"{self.size} {self.generation}"


def open_bucket_path(text: str) -> epath.Path:
    """Converts ``gs://BUCKET/…`` to a path, without a request to the bucket.

    Raises:
        UserError: the bucket's name is invalid, or gcsfs is not installed.
    """
    bucket = text.removeprefix(PREFIX).partition("/")[0]
    if not BUCKET_NAME.fullmatch(bucket):
        raise UserError(f"{text!r} does not name a bucket: write it as {PREFIX}BUCKET/FOLDER")
    if importlib.util.find_spec("gcsfs") is None:
        raise missing_package("gcsfs", f"{text} is in a bucket, which")
    # If TensorFlow is installed, etils uses its file system by default. We want gcsfs on every machine.
    os.environ.setdefault("EPATH_USE_TF", "false")
    fsspec.register_implementation("gcs", "imagen_jax.storage.bucket_files.BucketFileSystem", clobber=True)
    # A cached listing lacks objects that other writers add, such as tensorstore with a checkpoint's arrays.
    fsspec.config.conf.setdefault("gcs", {}).setdefault("use_listings_cache", False)
    return epath.Path(text)


def file_system() -> Any:
    """Returns gcsfs's file system, which etils also uses."""
    return fsspec.filesystem("gcs", finalize_on_close=True)


def object_info(path: epath.Path) -> ObjectInfo:
    """Returns the metadata of an object.

    Raises:
        FileNotFoundError: the object does not exist.
    """
    return read_info(file_system().info(str(path)))


def read_info(info: dict[str, Any]) -> ObjectInfo:
    """Extracts size and generation from gcsfs's metadata of an object."""
    return ObjectInfo(int(info["size"]), int(info["generation"]))


def objects_below(folder: epath.Path) -> dict[str, ObjectInfo]:
    """Returns the objects below a folder, sorted by name. The names are relative to the folder.

    It needs one request per thousand objects.

    Raises:
        UserError: an object's name leads out of the folder, such as one that contains ``..``.
    """
    prefix = f"{str(folder).removeprefix(PREFIX).rstrip('/')}/"
    found = file_system().find(str(folder), detail=True)
    # Other programs mark folders with empty objects whose names end in a slash.
    names = sorted(name for name in found if name.startswith(prefix) and not name.endswith("/"))
    objects = {name.removeprefix(prefix): read_info(found[name]) for name in names}
    for name in objects:
        # An object may have any name. With an unsafe one, its local copy could land anywhere on this machine.
        if not stays_below(name):
            raise UserError(f"{folder} contains an object {name!a}, a path outside the folder: remove that object")
    return objects


def read_objects(paths: Sequence[epath.Path]) -> list[bytes]:
    """Reads many small objects with concurrent requests.

    Raises:
        FileNotFoundError: an object does not exist.
    """
    names = [str(path).removeprefix(PREFIX) for path in paths]
    contents = file_system().cat(names) if names else {}
    return [contents[name] if isinstance(contents, dict) else contents for name in names]


def read_object_ranges(path: epath.Path, starts: Sequence[int], length: int) -> list[bytes]:
    """Reads ``length`` bytes from each offset in ``starts``, or fewer at the end, with concurrent requests."""
    return file_system().cat_ranges([str(path)] * len(starts), list(starts), [start + length for start in starts])


def write_generation(path: epath.Path, content: bytes, before: int) -> int | None:
    """Writes a small object if its current generation is ``before``.

    Args:
        path: path of the object.
        content: new content of the object.
        before: expected generation; 0 if the object must not exist yet.

    Returns:
        The new generation; None if the current generation is not ``before``.
    """
    files = file_system()
    bucket, _, name = str(path).removeprefix(PREFIX).partition("/")
    url = f"{files._location}/upload/storage/v1/b/{bucket}/o"
    try:
        reply = files.call(
            "POST", url, uploadType="media", name=name, ifGenerationMatch=before, data=content, json_out=True
        )
    except FileExistsError:
        # gcsfs raises this error for an unmet precondition.
        return None
    return int(reply["generation"])


def delete_generation(path: epath.Path, generation: int) -> None:
    """Deletes an object if it exists and still has this generation."""
    bucket, _, name = str(path).removeprefix(PREFIX).partition("/")
    with suppress(FileNotFoundError, FileExistsError):
        file_system().call("DELETE", "b/{}/o/{}", bucket, name, ifGenerationMatch=generation)


def check_bucket(path: epath.Path) -> None:
    """Checks that the bucket of a path exists.

    Raises:
        UserError: the bucket does not exist, or the user has no access to it.
        ForNowError: the bucket does not answer, which may go away by itself.
    """
    bucket = f"{PREFIX}{path.parts[2]}"
    try:
        there = file_system().exists(bucket)
    except Exception as error:
        if not is_refusal(error):
            raise
        kind = UserError if is_denied(error) else ForNowError
        raise kind(f"{bucket} does not answer ({summarise_error(error)}): {BUCKET_ADVICE}") from error
    if not there:
        raise UserError(f"there is no bucket {bucket}, or you may not see it: {BUCKET_ADVICE}")


def is_refusal(error: BaseException) -> bool:
    """Returns whether an error comes from a bucket.

    Such an error was raised by gcsfs or below it, or its message contains a bucket's URL, as tensorstore's messages do.
    """
    passed = False
    trace: TracebackType | None = error.__traceback__
    while trace is not None and not passed:
        passed = f"{os.sep}gcsfs{os.sep}" in trace.tb_frame.f_code.co_filename
        trace = trace.tb_next
    return passed or bool(re.search(rf"{PREFIX}|/storage/v1/", str(error)))


def explain_refusal(error: BaseException) -> str:
    """Returns a message for a permanent error of a bucket."""
    return f"a bucket refused ({summarise_error(error)}): {BUCKET_ADVICE}, then run the same command again"


def summarise_error(error: BaseException) -> str:
    """Returns the first line of an error's message, up to ``" ["``; the type's name if there is no message."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return line.partition(" [")[0]


def local_path(path: epath.Path, root: Path) -> Path:
    """Returns the path of an object's local copy below ``root``: ``root/BUCKET/path/of/the/object``."""
    return root.joinpath(*path.parts[2:])
