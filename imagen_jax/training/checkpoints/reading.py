"""Reads one checkpoint, and distinguishes shapes that don't fit, damage, and temporary errors of a disk or network.

    record, shapes -> checked against the wanted ones -> arrays as stored -> fingerprints -> wanted precision

All processes get the same result. Orbax reads in each process without waiting for the others, so that a process that
can't read does not block them.
"""

import errno
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, NoReturn

import jax
import jax.numpy as jnp
from jax.errors import JaxRuntimeError
from orbax.checkpoint import v1 as ocp

from imagen_jax.errors import ForNowError, UserError
from imagen_jax.storage.buckets import is_refusal
from imagen_jax.storage.json_text import read_json
from imagen_jax.storage.paths import Path, in_bucket
from imagen_jax.storage.refusals import disk_error_code, is_denied, status_of
from imagen_jax.training.checkpoints.folder import PARTS, DamageError, agree_on, first_line, missing_part
from imagen_jax.training.checkpoints.metadata import (
    ArrayType,
    Record,
    check_fits,
    check_numbers,
    is_key,
    read_record,
    types_by_name,
)

DAMAGE = (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError)
"""Errors that Orbax and tensorstore raise for changed files. Errors of devices are not among them."""


MISSING = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
"""Errors for a missing file; gcsfs raises them without an error code."""

DAMAGE_CODES = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EINVAL}
"""Error codes of a disk for files that are missing or not as written."""

REFUSING = {"ABORTED", "CANCELLED", "DEADLINE_EXCEEDED", "INTERNAL", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED",
            "UNAUTHENTICATED", "UNAVAILABLE", "UNKNOWN"}  # fmt: skip
"""Statuses of tensorstore for files that may be intact."""

SECONDS_BEFORE_READING_AGAIN = 1.0


SIGNS = {
    "NOT_FOUND": "files are missing",
    "OUT_OF_RANGE": "files are truncated",
    "DATA_LOSS|JSONDecodeError|UnicodeDecodeError": "files have changed since they were written",
}
"""Descriptions of damage, by patterns that match names of tensorstore's and Python's errors."""


class Found(NamedTuple):
    """The content that was read from a checkpoint.

    Attributes:
        step: step of the checkpoint.
        parts: trees of arrays, by name of the part.
        data_state: position in the data.
    """

    step: int
    parts: dict[str, Any]
    data_state: dict[str, Any]


def parts_of(state: Any) -> dict[str, Any]:
    """Splits a state, or its shapes, into the parts of a checkpoint."""
    return {"state": state._replace(ema_params=()), "ema_params": state.ema_params}


def state_of(found: Found) -> Any:
    """Joins the parts of a checkpoint into a state."""
    return found.parts["state"]._replace(ema_params=found.parts["ema_params"])


def place_here(shapes: Any) -> Any:
    """Returns shapes with their shardings; those without one get this process's first device."""
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding or here), shapes
    )


def read_alike(checkpoint: Path, wanted: dict[str, Any], again: bool = False) -> Found | str:
    """Reads some parts of a checkpoint, or returns what is wrong with it; all processes get the same result.

    Args:
        checkpoint: folder of the checkpoint.
        wanted: shapes with their shardings, by part.
        again: whether to retry once if it seems damaged and is in a bucket, or read by several processes.

    Raises:
        UserError: as for ``read_parts``.
    """
    found = read_once(checkpoint, wanted)
    if again and not isinstance(found, Found) and (in_bucket(checkpoint) or jax.process_count() > 1):
        time.sleep(SECONDS_BEFORE_READING_AGAIN)
        found = read_once(checkpoint, wanted)
    return found


def read_once(checkpoint: Path, wanted: dict[str, Any]) -> Found | str:
    """Reads some parts of a checkpoint like ``read_alike``, without a retry."""
    reason = read = None
    try:
        read = read_parts(checkpoint, wanted)
    except DamageError as error:
        reason = str(error)
    reason = agree_on(reason)
    if read is None or reason is not None:
        return str(reason)
    parts, record = read
    try:
        for part in parts:
            check_numbers(parts[part], record.fingerprints.get(part, {}))
    except DamageError as error:
        reason = str(error)
    reason = agree_on(reason)
    if reason is not None:
        return reason
    # One part after another, so that memory does not contain all parts in both precisions.
    cast_parts = {part: cast(parts.pop(part), wanted[part]) for part in list(parts)}
    return Found(int(checkpoint.name), cast_parts, record.data_state)


def read_parts(checkpoint: Path, wanted: dict[str, Any]) -> tuple[dict[str, Any], Record]:
    """Reads some parts of a checkpoint with the shardings of their shapes, after checking that they fit.

    No process waits for another here, so a process that can't read does not block the others.

    Returns:
        The parts, with the types that they were written in, and the checkpoint's record.

    Raises:
        DamageError: the checkpoint differs from what was written.
        UserError: the parts don't fit, the format is newer, or the permission to read is missing.
        ForNowError: the checkpoint can't be read now.
    """
    try:
        missing = missing_part(checkpoint)
        if missing:
            raise DamageError(f"{missing if checkpoint.exists() else 'all of it'} is missing")
        record = read_record(read_json(checkpoint / PARTS[0])["custom_metadata"], checkpoint)
        with reading_alone():
            # The averaged parameters come first, because their names describe a difference best.
            types = {part: types_in(checkpoint, part, record) for part in sorted(wanted)}
            for part, stored in types.items():
                check_fits(checkpoint, stored, wanted[part])
            # One by one: if one part can't be read, Orbax would log errors of the other one, which is not awaited.
            return {
                part: ocp.load_checkpointables(checkpoint, {part: as_stored(wanted[part], types[part])})[part]
                for part in wanted
            }, record
    except (UserError, DamageError):
        raise
    except Exception as error:
        if not isinstance(error, DAMAGE) and not is_refusal(error):
            raise
        raise_what_it_means(error, checkpoint)


def types_in(checkpoint: Path, part: str, record: Record) -> dict[str, ArrayType]:
    """Returns the type of each array in a part of a checkpoint.

    Raises:
        DamageError: the metadata of the part is missing, empty or unreadable.
        OSError: the part can't be read.
    """
    if not (checkpoint / part / "_METADATA").read_bytes():
        raise DamageError(f"{part}/_METADATA is empty")
    # Without this file no array is found, and Orbax's abandoned reads print many errors.
    if not (checkpoint / part / "manifest.ocdbt").exists():
        raise DamageError(f"{part}/manifest.ocdbt is missing")
    if record.arrays:
        return record.arrays[part]
    # Orbax only logs that it can't read, and returns None.
    listed = ocp.metadata(checkpoint, part).metadata
    if listed is None:
        raise DamageError(f"the content of {part}/ can't be read")
    return types_by_name(listed)


@contextmanager
def reading_alone() -> Iterator[None]:
    """Makes Orbax read without waiting for the other processes, within the block."""
    context = ocp.Context()
    if jax.process_count() > 1:
        here = jax.process_index()
        context.multiprocessing.primary_host, context.multiprocessing.active_processes = here, {here}
    with context:
        yield


def as_stored(wanted: Any, types: dict[str, ArrayType]) -> Any:
    """Returns the wanted shapes, with the types that are stored on disk."""

    def one(path: Any, leaf: Any) -> Any:
        if is_key(leaf):
            return leaf
        dtype = jnp.dtype(types[jax.tree_util.keystr(path, simple=True, separator="/")].dtype)
        return jax.ShapeDtypeStruct(leaf.shape, dtype, sharding=leaf.sharding)

    return jax.tree_util.tree_map_with_path(one, wanted)


def cast(arrays: Any, wanted: Any) -> Any:
    """Casts arrays to the wanted precision; their shardings stay."""
    return jax.tree.map(lambda array, leaf: array if is_key(leaf) else array.astype(leaf.dtype), arrays, wanted)


def raise_what_it_means(error: Exception, checkpoint: Path) -> NoReturn:
    """Raises the error for a damaged checkpoint, a checkpoint that can't be read now, or a failed device.

    The cause is found in the chain of exceptions that led to Orbax's error.

    Raises:
        DamageError: the checkpoint is damaged.
        UserError: the permission to read it is missing.
        ForNowError: it can't be read now.
        Exception: the error itself, if a device failed.
    """
    causes: list[BaseException] = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None:
        causes.append(cause)
    for cause in causes:
        if isinstance(cause, JaxRuntimeError | MemoryError):
            raise error
        if is_refused(cause):
            sentence = f"the checkpoint {checkpoint} can't be read now ({first_line(cause)})"
            if is_denied(cause):
                fix = (
                    "get permission to read it"
                    if in_bucket(checkpoint)
                    else "ask its owner for permission to read it (chmod a+rX)"
                )
                raise UserError(f"{sentence}: {fix}, then run the same command again") from error
            # A dying disk raises the same errors; but to take a network failure for damage would discard good work.
            raise ForNowError(
                f"{sentence}, but it may be undamaged: run the same command again. If it fails again, check the disk "
                "or the network, or move that folder away to continue from the previous checkpoint"
            ) from error
    described = [cause for cause in causes if str(cause) and not isinstance(cause, StopIteration)]
    last = described[-1] if described else error
    text = f"{type(last).__name__}: {last}"
    description = next((words for names, words in SIGNS.items() if re.search(names, text)), "it can't be read")
    raise DamageError(f"{description}: {first_line(last)}") from error


def is_refused(error: BaseException) -> bool:
    """Returns whether an error means that something can't be read now, without evidence of damage.

    Only missing or wrong content is damage; all other errors of a disk, a network or a bucket are not.
    """
    if isinstance(error, MISSING):
        return False
    code = disk_error_code(error)
    if code is not None:
        return code not in DAMAGE_CODES
    if isinstance(error, OSError):
        # gcsfs and aiohttp raise some errors without a code.
        return True
    status = status_of(error)
    if status is not None:
        return status in REFUSING
    return not isinstance(error, DAMAGE) and is_refusal(error)
