"""The folder of a run's checkpoints: which lie there, which are whole, and what becomes of those that are not.

checkpoints/500/                        whole, or so it seems
checkpoints/750.orbax-checkpoint-tmp*   being written; left by a run that was killed meanwhile, it is removed
checkpoints/1000.damaged/               was the newest and could not be read; kept for people, no program counts it
"""

import errno
import logging
import os
import re
import shutil
import sys
import textwrap
import time
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from imagen_jax.errors import UserError
from imagen_jax.storage.buckets import MENDS as MENDS_OF_BUCKETS
from imagen_jax.storage.buckets import is_refusal, tell
from imagen_jax.storage.paths import Path, create_folder, in_bucket, move_folder, remove_folder, write_whole

COMMITTED = "commit_success.txt"
"""What Orbax writes last. In a bucket, where no folder can be renamed, it alone tells a whole checkpoint."""

PARTS = ("_CHECKPOINT_METADATA", "ema_params/_METADATA")
"""What lies in the folder of every checkpoint; ``state/`` may be removed from one that is only to sample from."""

MENDS = {
    errno.ENOSPC: "make room",
    errno.EDQUOT: "make room",
    errno.EACCES: "make it writable",
    errno.EPERM: "make it writable",
    errno.EROFS: "use a --workdir on another disk",
}
"""What helps against the disk's refusals."""

SPARE_ROOM = 1.2
"""Free disk space wanted before writing, over the size of the state."""


class DamageError(Exception):
    """A checkpoint is not as it was written: its message is what is wrong with it, in a few words."""


class NotWrittenError(UserError):
    """A checkpoint was not written, and those before are as they were: all processes know it, and may go on.

    Args:
        what: what is wrong and what mends it, a sentence without its end.
    """

    def __init__(self, what: str) -> None:
        super().__init__(f"{what}, then run again to continue from the last one")
        self.what = what


def list_steps(folder: Path) -> list[Path]:
    """The folders that are named for a step, whole or not, in their order."""
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.iterdir() if path.name.isdecimal()), key=lambda path: int(path.name))


def missing_part(checkpoint: Path) -> str | None:
    """The first part that a checkpoint lacks; None where all are there. One half copied or half deleted is none."""
    parts = (*PARTS, COMMITTED) if in_bucket(checkpoint) else PARTS
    return next((part for part in parts if not (checkpoint / part).exists()), None)


def is_complete(checkpoint: Path) -> bool:
    """Whether all parts of a checkpoint are there."""
    return missing_part(checkpoint) is None


def is_leftover(checkpoint: Path) -> bool:
    """Whether what is named for a step is surely the remains of one that was being written or deleted."""
    if in_bucket(checkpoint):
        return not (checkpoint / COMMITTED).exists()
    return not any(path.is_file() for path in checkpoint.rglob("*"))


def steps_to_keep(steps: Sequence[int], newest: int, every: int) -> set[int]:
    """Which of some checkpoints stay: the newest, and as a milestone the first of each ``every`` steps.

    Args:
        steps: of the checkpoints, in their order.
        newest: how many of the newest stay.
        every: steps from milestone to milestone; 0 keeps none.
    """
    milestones: dict[int, int] = {}
    for step in steps:
        if every and step >= every:
            milestones.setdefault(step // every, step)
    return {*steps[-newest:], *milestones.values()}


def remove_leftovers(folder: Path, newest: int, every: int) -> None:
    """Removes what a run killed while it wrote or deleted has left; Orbax would count some of it as checkpoints.

    What is none of that but incomplete is set aside.

    Args:
        folder: of the checkpoints.
        newest: see ``steps_to_keep``.
        every: likewise.
    """
    if jax.process_index() == 0:
        for path in folder.glob("*.orbax-checkpoint-tmp*"):
            remove_unfinished_checkpoint(path)
        there = list_steps(folder)
        incomplete = [path for path in there if not is_complete(path)]
        kept = steps_to_keep([int(path.name) for path in there], newest, every)
        for path in incomplete:
            # One that is not to be kept was being deleted, since better ones had come.
            if is_leftover(path) or int(path.name) not in kept:
                remove_folder(path)
            else:
                warn(
                    f"the checkpoint {path} is damaged ({missing_part(path)} is missing) and kept as {set_aside(path)}"
                )
    wait_for_first("leftovers of checkpoints removed")


def remove_unfinished_checkpoint(path: Path) -> None:
    """Removes a checkpoint whose writing failed, maybe just now in this process: some threads may still write there.

    Raises:
        OSError: it can't be removed.
    """
    for seconds in (0.1, 0.3, 1.0, 3.0):
        try:
            return remove_folder(path)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.ENOENT):
                raise
            time.sleep(seconds)
    if path.exists():
        remove_folder(path)


def set_aside(checkpoint: Path) -> str:
    """Gives a damaged checkpoint another name, and returns that: its step can be written again, and nothing is lost.

    Raises:
        OSError: it can't be renamed.
    """
    taken = {path.name for path in checkpoint.parent.iterdir()}
    endings = ["damaged", *(f"damaged-{number}" for number in range(2, len(taken) + 3))]
    name = next(name for ending in endings if (name := f"{checkpoint.name}.{ending}") not in taken)
    move_folder(checkpoint, checkpoint.with_name(name))
    return name


def gather(number: int) -> list[int]:
    """The number that each process gives; all must call this together. Alone: ours."""
    if jax.process_count() == 1:
        return [number]
    return [int(one) for one in multihost_utils.process_allgather(np.int32(number))]


def wait_for_first(purpose: str) -> None:
    """Has all processes wait for process 0."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(purpose)


def warn(sentence: str) -> None:
    """Prints a sentence on standard error that must not be missed."""
    print(f"warning: {sentence}", file=sys.stderr, flush=True)


def disk_error_code(error: BaseException) -> int | None:
    """The number of the operating system's error behind an error of Orbax; None where there is none."""
    if isinstance(error, OSError):
        return error.errno
    told = re.search(r"os_error_code='(\d+)'", str(error))
    return int(told[1]) if told else None


def lack_of_room(folder: Path, parts: Any) -> str:
    """What to say where a disk has no room for arrays; nothing where it has, and of buckets."""
    if in_bucket(folder):
        return ""
    wanted = SPARE_ROOM * sum(leaf.nbytes for leaf in jax.tree.leaves(parts))
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free >= wanted:
        return ""
    return f"a checkpoint takes {wanted / 1e6:.0f} MB and {existing} has {free / 1e6:.0f} MB free: make room"


def refusal_of_bytes(folder: Path) -> str:
    """What to say where this process can't write a small file into a folder; nothing where it can."""
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
    return ""


def refuse_alike(refusal: str) -> None:
    """Raises what this process or another one has to say, in all of them.

    Raises:
        NotWrittenError: one has something to say.
    """
    refusing = gather(int(bool(refusal)))
    if any(refusing):
        raise NotWrittenError(refusal or f"process {refusing.index(1)} can't write a checkpoint: see what it says")


def explain_refusal(folder: Path, error: Exception) -> str | None:
    """A sentence, without its end, for a disk's or a bucket's refusal to be written to; None for other errors."""
    if in_bucket(folder) and is_refusal(error):
        return f"a checkpoint can't be written into {folder} ({tell(error)}): {MENDS_OF_BUCKETS}"
    code = disk_error_code(error)
    if code is None and isinstance(error, TimeoutError) and jax.process_count() > 1:
        return f"a checkpoint could not be written into {folder} by all processes: see what the others say"
    if code is None:
        return None
    return f"a checkpoint can't be written into {folder} ({os.strerror(code)}): {MENDS.get(code, 'mend that')}"


def first_line(error: BaseException) -> str:
    """The beginning of what an error says."""
    return textwrap.shorten((str(error).splitlines() or [type(error).__name__])[0], 160, placeholder=" …")


def names_in_a_sentence(names: Iterable[str]) -> str:
    """A few names, and how many more there are."""
    names = sorted(names)
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


FAILED_WRITES: list[BaseException] = []
"""Errors of writing in the background, as Orbax logs them: of several processes it raises them only when all are done,
and those that did write wait twenty minutes for the one that could not."""


def is_news(record: logging.LogRecord) -> bool:
    """Whether a log line is more than Orbax's copy of an error that it raises as well (about a hundred lines each)."""
    if not (record.exc_info and f"{os.sep}orbax{os.sep}" in record.pathname):
        return True
    if "async_checkpointer" in record.pathname and isinstance(record.exc_info[1], Exception):
        FAILED_WRITES.append(record.exc_info[1])
    return False
