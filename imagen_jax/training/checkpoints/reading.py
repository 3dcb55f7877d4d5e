"""Reading one checkpoint: what fits, what is damaged, and what a disk or network only refuses for now.

    record, shapes -> checked against what is wanted -> arrays as they are stored -> fingerprints -> wanted precision

All processes come to the same answer. Orbax reads without waiting for the others, so that one which can't read does not
leave them waiting.
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
"""What Orbax and tensorstore raise for files that are not as they wrote them. A device's errors are not among them."""


MISSING = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
"""What says that a file is not there; gcsfs gives them no number."""

DAMAGE_CODES = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EINVAL}
"""Numbers of a disk's errors that say: not there, or not what was written."""

REFUSING = {"ABORTED", "CANCELLED", "DEADLINE_EXCEEDED", "INTERNAL", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED",
            "UNAUTHENTICATED", "UNAVAILABLE", "UNKNOWN"}  # fmt: skip
"""What tensorstore says of files that may be well."""

SECONDS_BEFORE_READING_AGAIN = 1.0


SIGNS = {
    "NOT_FOUND": "files are missing",
    "OUT_OF_RANGE": "files are cut short",
    "DATA_LOSS|JSONDecodeError|UnicodeDecodeError": "files have changed since they were written",
}
"""What the names of errors say, tensorstore's and Python's."""


class Found(NamedTuple):
    """What was read of a checkpoint.

    Attributes:
        step: its number.
        parts: by name.
        data_state: the position in the data.
    """

    step: int
    parts: dict[str, Any]
    data_state: dict[str, Any]


def parts_of(state: Any) -> dict[str, Any]:
    """A state, or its shapes, as the parts of a checkpoint."""
    return {"state": state._replace(ema_params=()), "ema_params": state.ema_params}


def state_of(found: Found) -> Any:
    """The state that the parts of a checkpoint are."""
    return found.parts["state"]._replace(ema_params=found.parts["ema_params"])


def place_here(shapes: Any) -> Any:
    """Shapes with their shardings; those without one get this process's first device."""
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding or here), shapes
    )


def read_alike(checkpoint: Path, wanted: dict[str, Any], again: bool = False) -> Found | str:
    """Reads some parts of a checkpoint, or says what is wrong with it; all processes come to the same answer.

    Args:
        checkpoint: its folder.
        wanted: shapes with their shardings, by part.
        again: whether what seems damaged is read once more, where it came over a network.

    Raises:
        UserError: as ``read_parts``.
    """
    found = read_once(checkpoint, wanted)
    if again and not isinstance(found, Found) and (in_bucket(checkpoint) or jax.process_count() > 1):
        time.sleep(SECONDS_BEFORE_READING_AGAIN)
        found = read_once(checkpoint, wanted)
    return found


def read_once(checkpoint: Path, wanted: dict[str, Any]) -> Found | str:
    """As ``read_alike`` without another try."""
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
    # One after the other, so that not both precisions of all are in memory.
    cast_parts = {part: cast(parts.pop(part), wanted[part]) for part in list(parts)}
    return Found(int(checkpoint.name), cast_parts, record.data_state)


def read_parts(checkpoint: Path, wanted: dict[str, Any]) -> tuple[dict[str, Any], Record]:
    """Reads some parts of a checkpoint onto the shardings of their shapes, after checking that they fit.

    No process waits for another here, so one that can't read does not leave the others waiting.

    Returns:
        The parts, with the types that they were written in, and the checkpoint's record.

    Raises:
        DamageError: the checkpoint is not as it was written.
        UserError: they don't fit, or the checkpoint is of a newer format or may not be read.
        ForNowError: it can't be read now.
    """
    try:
        missing = missing_part(checkpoint)
        if missing:
            raise DamageError(f"{missing if checkpoint.exists() else 'all of it'} is missing")
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
    except (UserError, DamageError):
        raise
    except Exception as error:
        if not isinstance(error, DAMAGE) and not is_refusal(error):
            raise
        raise_what_it_means(error, checkpoint)


def types_in(checkpoint: Path, part: str, record: Record) -> dict[str, ArrayType]:
    """The type of each array in a part of a checkpoint.

    Raises:
        DamageError: it has no such part.
        OSError: it can't be read.
    """
    if not (checkpoint / part / "_METADATA").read_bytes():
        raise DamageError(f"{part}/_METADATA is empty")
    # Without it no array is found, and the reads that Orbax leaves behind at the first error fill the screen.
    if not (checkpoint / part / "manifest.ocdbt").exists():
        raise DamageError(f"{part}/manifest.ocdbt is missing")
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
    context = ocp.Context()
    if jax.process_count() > 1:
        here = jax.process_index()
        context.multiprocessing.primary_host, context.multiprocessing.active_processes = here, {here}
    with context:
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
        UserError: it may not be read.
        ForNowError: it can't be read now.
        Exception: the error itself, where a device failed.
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
                mend = (
                    "mend that"
                    if in_bucket(checkpoint)
                    else "you may not read it, ask its owner to let you (chmod a+rX)"
                )
                raise UserError(f"{sentence}: {mend}, then run the same command again") from error
            # A disk that dies says no other; but who takes a network's hiccup for that throws good work away.
            raise ForNowError(
                f"{sentence}, which does not mean that it is damaged: run the same command again; if it stays so, look "
                "at the disk or the network, or move that folder away to go on from the one before"
            ) from error
    told = [cause for cause in causes if str(cause) and not isinstance(cause, StopIteration)]
    last = told[-1] if told else error
    text = f"{type(last).__name__}: {last}"
    sign = next((words for names, words in SIGNS.items() if re.search(names, text)), "it can't be read")
    raise DamageError(f"{sign}: {first_line(last)}") from error


def is_refused(error: BaseException) -> bool:
    """Whether an error says that something can't be read now, and nothing of what is there.

    Damage is what shows that the content is missing or wrong; all else that a disk, a network or a bucket says is none.
    """
    if isinstance(error, MISSING):
        return False
    code = disk_error_code(error)
    if code is not None:
        return code not in DAMAGE_CODES
    if isinstance(error, OSError):
        # gcsfs and aiohttp have such without a number.
        return True
    status = status_of(error)
    if status is not None:
        return status in REFUSING
    return not isinstance(error, DAMAGE) and is_refusal(error)
