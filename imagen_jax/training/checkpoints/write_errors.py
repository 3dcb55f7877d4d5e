"""Why a checkpoint can't be written: a full disk or another error. All processes agree on the result."""

import errno
import logging
import os
import shutil
from typing import Any, NamedTuple

import jax

from imagen_jax.errors import ForNowError, UserError
from imagen_jax.storage.buckets import BUCKET_ADVICE, is_refusal, summarise_error
from imagen_jax.storage.paths import Path, create_folder, in_bucket, write_whole
from imagen_jax.storage.refusals import disk_error_code, is_denied, is_passing
from imagen_jax.training.checkpoints.folder import gather, list_damaged, names_in_a_sentence

FIXES = {
    errno.ENOSPC: "make room",
    errno.EDQUOT: "make room",
    errno.EACCES: "make it writable",
    errno.EPERM: "make it writable",
    errno.EROFS: "use a --workdir on another disk",
}
"""Advice for error codes of a disk."""

SPARE_ROOM = 1.2
"""Free disk space required before writing, as a multiple of the size of the state."""


class Refusal(NamedTuple):
    """The reason why a checkpoint can't be written.

    Attributes:
        what: what is wrong and how to fix it, a sentence without its end.
        passing: whether the error may be temporary.
    """

    what: str
    passing: bool


class NotWrittenError(UserError):
    """A checkpoint was not written, and earlier ones are unchanged. All processes raise it and may continue.

    Args:
        refusal: reason of the failure.

    Attributes:
        what: what is wrong and how to fix it, a sentence without its end.
    """

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(f"{refusal.what}, then run the same command again to continue from the last one")
        self.what = refusal.what
        self.for_now = refusal.passing


def lack_of_room(folder: Path, parts: Any) -> Refusal | None:
    """Returns the reason if a disk has no room for arrays; None if it has, and for buckets."""
    if in_bucket(folder):
        return None
    needed = SPARE_ROOM * sum(leaf.nbytes for leaf in jax.tree.leaves(parts))
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free >= needed:
        return None
    aside = names_in_a_sentence(path.name for path in list_damaged(folder))
    return Refusal(
        f"a checkpoint needs {needed / 1e6:.0f} MB, and {existing} has {free / 1e6:.0f} MB free: make room"
        + (f" (it has damaged ones: {aside})" if aside else ""),
        passing=False,
    )


def refusal_of_bytes(folder: Path) -> Refusal | None:
    """Returns the reason if this process can't write a small file into a folder; None if it can."""
    path = folder / f".written-by-{jax.process_index()}"
    try:
        create_folder(folder)
        write_whole(path, b"Written to see whether a checkpoint can be.\n")
        path.unlink()
    except Exception as error:
        refusal = explain_refusal(folder, error)
        if refusal is None:
            raise
        return refusal
    return None


def refuse_alike(refusal: Refusal | None) -> None:
    """Raises an error in all processes if at least one process has a reason.

    Raises:
        NotWrittenError: a process has a reason.
    """
    codes = gather(0 if refusal is None else 1 if refusal.passing else 2)
    if any(codes):
        what = (
            refusal.what if refusal else f"process {codes.index(max(codes))} can't write a checkpoint: see its message"
        )
        raise NotWrittenError(Refusal(what, passing=max(codes) == 1))


def explain_refusal(folder: Path, error: Exception) -> Refusal | None:
    """Returns the reason if a disk or a bucket can't be written to; None for other errors."""
    if in_bucket(folder) and is_refusal(error):
        denied = is_denied(error)
        fix = BUCKET_ADVICE if denied else "wait until the bucket responds"
        return Refusal(
            f"a checkpoint can't be written into {folder} ({summarise_error(error)}): {fix}", passing=not denied
        )
    code = disk_error_code(error)
    if code is None and isinstance(error, TimeoutError) and jax.process_count() > 1:
        return Refusal(
            f"a checkpoint could not be written into {folder} by all processes: see their messages",
            passing=True,
        )
    if code is None:
        return None
    return Refusal(
        f"a checkpoint can't be written into {folder} ({os.strerror(code)}): {FIXES.get(code, 'fix that')}",
        is_passing(error),
    )


def ending_all(refusal: Refusal, error: Exception) -> UserError:
    """Returns the error that ends a process if it alone failed to write, before the others notice.

    The same command continues the run: before the next write all processes check that they can write, and continue if
    one can't. So even a full disk is a temporary error.
    """
    sentence = f"{refusal.what}, then run the same command on all hosts to continue from the last one"
    return UserError(sentence) if is_denied(error) else ForNowError(sentence)


FAILED_WRITES: list[BaseException] = []
"""Errors of background writes, as Orbax logs them.

With several processes, Orbax raises them only when all are done, and successful processes wait twenty minutes for the
failed one.
"""


def is_news(record: logging.LogRecord) -> bool:
    """Returns whether a log record is more than Orbax's copy of an error that it also raises.

    Such a copy has about a hundred lines. Errors of background writes are added to ``FAILED_WRITES``.
    """
    if not (record.exc_info and f"{os.sep}orbax{os.sep}" in record.pathname):
        return True
    if "async_checkpointer" in record.pathname and isinstance(record.exc_info[1], Exception):
        FAILED_WRITES.append(record.exc_info[1])
    return False
