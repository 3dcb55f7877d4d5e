"""Reading one checkpoint: what fits, what is damaged, and what a disk or network only refuses for now.

    record, shapes -> checked against what is wanted -> arrays as they are stored -> fingerprints -> wanted precision

Orbax reads without waiting for other processes, so that one which can't read does not leave the others waiting.
"""

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
from jax.errors import JaxRuntimeError
from orbax.checkpoint import v1 as ocp

from imagen_jax.errors import UserError
from imagen_jax.storage.json_text import read_json
from imagen_jax.storage.paths import Path
from imagen_jax.training.checkpoint_files import (
    PARTS,
    DamageError,
    disk_error_code,
    first_line,
    missing_part,
)
from imagen_jax.training.checkpoint_records import (
    ArrayType,
    Record,
    check_fits,
    is_key,
    read_record,
    types_by_name,
)

DAMAGE = (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError)
"""What Orbax and tensorstore raise for files that are not as they wrote them. A device's errors are not among them."""


REFUSALS = {errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE, errno.ETIMEDOUT}
"""Why a disk may not let a file be read that is well."""

REFUSALS_OF_BUCKETS = re.compile(
    "PERMISSION_DENIED|UNAUTHENTICATED|UNAVAILABLE|DEADLINE_EXCEEDED|RESOURCE_EXHAUSTED|ABORTED|CANCELLED"
)
"""Likewise, as tensorstore names it."""


SIGNS = {
    "NOT_FOUND": "files are missing",
    "OUT_OF_RANGE": "files are cut short",
    "DATA_LOSS|JSONDecodeError|UnicodeDecodeError": "files have changed since they were written",
}
"""What the names of errors say, tensorstore's and Python's."""


def place_here(shapes: Any) -> Any:
    """Shapes with their shardings; those without one get this process's first device."""
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding or here), shapes
    )


def read_parts(checkpoint: Path, wanted: dict[str, Any]) -> tuple[dict[str, Any], Record]:
    """Reads some parts of a checkpoint onto the shardings of their shapes, after checking that they fit.

    No process waits for another here, so one that can't read does not leave the others waiting.

    Returns:
        The parts, with the types that they were written in, and the checkpoint's record.

    Raises:
        DamageError: the checkpoint is not as it was written.
        UserError: they don't fit, or the checkpoint is of a newer format or may not be read.
    """
    missing = missing_part(checkpoint) if checkpoint.exists() else "all of it"
    if missing:
        raise DamageError(f"{missing} is missing")
    try:
        record = read_record(read_json(checkpoint / PARTS[0])["custom_metadata"], checkpoint)
        with reading_alone():
            # The averaged parameters come first, since they say best what differs.
            types = {part: types_in(checkpoint, part, record) for part in sorted(wanted)}
            for part, there in types.items():
                check_fits(checkpoint, there, wanted[part])
            # One by one: where one can't be read, Orbax would complain of the other that nobody awaits.
            return {
                part: ocp.load_checkpointables(checkpoint, {part: as_stored(wanted[part], types[part])})[part]
                for part in wanted
            }, record
    except DAMAGE as error:
        raise_what_it_means(error, checkpoint)


def types_in(checkpoint: Path, part: str, record: Record) -> dict[str, ArrayType]:
    """The type of each array in a part of a checkpoint.

    Raises:
        DamageError: it has no such part.
        OSError: it can't be read.
    """
    if not (checkpoint / part / "_METADATA").read_bytes():
        raise DamageError(f"{part}/_METADATA is empty")
    if record.arrays:
        return record.arrays[part]
    # Where it can't read, Orbax says so in the log only.
    listed = ocp.metadata(checkpoint, part).metadata
    if listed is None:
        raise DamageError(f"what {part}/ holds can't be read")
    return types_by_name(listed)


@contextmanager
def reading_alone() -> Iterator[None]:
    """Has Orbax read without waiting for the other processes."""
    here = jax.process_index()
    options = ocp.options.MultiprocessingOptions(primary_host=here, active_processes={here})
    with ocp.Context(multiprocessing_options=options) if jax.process_count() > 1 else nullcontext():
        yield


def as_stored(wanted: Any, types: dict[str, ArrayType]) -> Any:
    """The wanted shapes, with the types that the disk holds."""

    def one(path: Any, leaf: Any) -> Any:
        if is_key(leaf):
            return leaf
        dtype = jnp.dtype(types[jax.tree_util.keystr(path, simple=True, separator="/")].dtype)
        return jax.ShapeDtypeStruct(leaf.shape, dtype, sharding=leaf.sharding)

    return jax.tree_util.tree_map_with_path(one, wanted)


def cast(arrays: Any, wanted: Any) -> Any:
    """Arrays in the wanted precision, each where it is."""
    return jax.tree.map(lambda array, leaf: array if is_key(leaf) else array.astype(leaf.dtype), arrays, wanted)


def raise_what_it_means(error: Exception, checkpoint: Path) -> NoReturn:
    """Tells a damaged checkpoint from a disk or network that does not let it be read now, and from a failed device.

    Orbax names the cause in the errors that its own one came of.

    Raises:
        DamageError: it is damaged.
        UserError: it may not be read now.
        Exception: the error itself, where a device failed.
    """
    causes: list[BaseException] = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None:
        causes.append(cause)
    for cause in causes:
        if isinstance(cause, JaxRuntimeError | MemoryError):
            raise error
        if disk_error_code(cause) in REFUSALS or REFUSALS_OF_BUCKETS.search(str(cause)):
            raise UserError(
                f"the checkpoint {checkpoint} can't be read now ({first_line(cause)}): mend that, then run the same "
                "command again"
            ) from error
    told = [cause for cause in causes if str(cause) and not isinstance(cause, StopIteration)]
    last = told[-1] if told else error
    text = f"{type(last).__name__}: {last}"
    sign = next((words for names, words in SIGNS.items() if re.search(names, text)), "it can't be read")
    raise DamageError(f"{sign}: {first_line(last)}") from error
