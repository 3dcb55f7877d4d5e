"""The folder of a run's checkpoints: which exist, which are complete, and what happens to the others.

checkpoints/500/                        complete, or so it seems
checkpoints/750.orbax-checkpoint-tmp*   being written; if a killed run left it, it is removed
checkpoints/1000.damaged/               was the newest and could not be read; kept for people, ignored by programs
"""

import errno
import re
import textwrap
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from imagen_jax.errors import ForNowError, UserError
from imagen_jax.runtime import processes
from imagen_jax.storage.paths import Path, in_bucket, move_folder, remove_folder
from imagen_jax.training.monitoring.append_file import print_line

COMMITTED = "commit_success.txt"
"""Last file that Orbax writes. In a bucket, where folders can't be renamed, only it marks a complete checkpoint."""

PARTS = ("_CHECKPOINT_METADATA", "ema_params/_METADATA")
"""Files in the folder of every checkpoint; ``state/`` may be removed from one that is only for sampling."""

MAX_DAMAGED = 2
"""Max damaged checkpoints to keep; each is as large as a complete one, and nothing else removes them."""

LOOKS = 40
SECONDS_BETWEEN_LOOKS = 0.5
"""Processes compare what they see up to ``LOOKS`` times, at this interval: a network disk may be slow."""


class DamageError(Exception):
    """A checkpoint differs from what was written. The message describes the damage in a few words."""


def list_steps(folder: Path) -> list[Path]:
    """Returns the folders that are named for a step, complete or not, in order of their steps."""
    return sorted((path for path in names_in(folder) if path.name.isdecimal()), key=lambda path: int(path.name))


def list_damaged(folder: Path) -> list[Path]:
    """Returns the damaged checkpoints that were set aside, in order of their steps, then of their numbers."""
    found = [(match, path) for path in names_in(folder) if (match := DAMAGED.fullmatch(path.name))]
    return [path for _, path in sorted(found, key=lambda one: (int(one[0][1]), int(one[0][2] or 1)))]


DAMAGED = re.compile(r"(\d+)\.damaged(?:-(\d+))?")


def names_in(folder: Path) -> list[Path]:
    """Returns the paths in a folder; none if the folder is missing.

    Raises:
        OSError: the folder can't be listed. An unreachable bucket must not look like one without checkpoints.
    """
    try:
        return list(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def missing_part(checkpoint: Path) -> str | None:
    """Returns the first missing part of a checkpoint, or None if it is complete.

    A checkpoint that is half copied or half deleted lacks a part.
    """
    parts = (*PARTS, COMMITTED) if in_bucket(checkpoint) else PARTS
    return next((part for part in parts if not (checkpoint / part).exists()), None)


def is_complete(checkpoint: Path) -> bool:
    """Returns whether all parts of a checkpoint exist."""
    return missing_part(checkpoint) is None


def is_leftover(checkpoint: Path) -> bool:
    """Returns whether a folder named for a step is certainly left over from an unfinished write or deletion."""
    if in_bucket(checkpoint):
        return not (checkpoint / COMMITTED).exists()
    return not any(path.is_file() for path in checkpoint.rglob("*"))


def is_empty(checkpoint: Path) -> bool:
    """Returns whether a checkpoint on this machine contains no files; False for buckets."""
    return not in_bucket(checkpoint) and is_leftover(checkpoint)


def steps_to_keep(
    steps: Sequence[int], newest: int, every: int, counts: Callable[[int], bool] = lambda step: True
) -> set[int]:
    """Returns the steps of the checkpoints to keep: the newest ones, and the first of each ``every`` steps.

    Args:
        steps: steps of the checkpoints, in order.
        newest: number of newest checkpoints to keep.
        every: interval in steps of the milestones, which are always kept; 0 for none.
        counts: whether the checkpoint of a step counts. One that does not is no milestone and displaces none that
            counts. It is kept only if too few count, or if it is the newest of all, from which the run would resume.
    """
    milestones: dict[int, int] = {}
    for step in steps:
        if every and step >= every and counts(step):
            milestones.setdefault(step // every, step)
    by_worth = sorted(steps, key=lambda step: (counts(step), step))
    return {*by_worth[-newest:], *steps[-1:], *milestones.values()}


class Kept:
    """Orbax's preservation policy, given by ``steps_to_keep``.

    Args:
        newest: number of newest checkpoints to keep, at least 1.
        every: interval in steps of the milestones, at least 0; 0 for none.

    Attributes:
        counts: whether the checkpoint of a step counts, see ``steps_to_keep``; by default all do.

    Raises:
        UserError: ``newest`` is below 1, or ``every`` is negative.
    """

    def __init__(self, newest: int, every: int) -> None:
        if newest < 1:
            raise UserError(f"--config.training.keep_checkpoints={newest} is below 1: set it to at least 1")
        if every < 0:
            raise UserError(f"--config.training.keep_every={every} is below 0: set it to 0 to keep no milestones")
        self._newest, self._every = newest, every
        self.counts: Callable[[int], bool] = lambda step: True

    def choose(self, steps: Sequence[int]) -> set[int]:
        """Returns those of some steps, given in order, that are kept."""
        return steps_to_keep(steps, self._newest, self._every, self.counts)

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """Returns for each checkpoint whether it is kept."""
        steps = [checkpoint.step for checkpoint in checkpoints]
        kept = self.choose(steps)
        return [step in kept for step in steps]


def remove_leftovers(folder: Path, kept: Kept) -> None:
    """Removes leftovers of unfinished writes and deletions, some of which Orbax would count as checkpoints.

    Other incomplete checkpoints are set aside.

    Args:
        folder: folder of the checkpoints.
        kept: policy that says which checkpoints to keep.
    """
    if jax.process_index() == 0:
        for path in folder.glob("*.orbax-checkpoint-tmp*"):
            remove_unfinished_checkpoint(path)
        paths = list_steps(folder)
        incomplete = [path for path in paths if not is_complete(path)]
        staying = kept.choose([int(path.name) for path in paths])
        for path in incomplete:
            # One that the policy does not keep was being deleted, because better ones existed.
            if is_leftover(path) or int(path.name) not in staying:
                remove_folder(path)
            else:
                warn(
                    f"the checkpoint {path} is damaged ({missing_part(path)} is missing) and kept as {set_aside(path)}"
                )
    wait_for_first("leftovers of checkpoints removed")


def remove_unfinished_checkpoint(path: Path) -> None:
    """Removes a checkpoint whose write failed, with retries: threads of this process may still write to it.

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


def none_is_whole(folder: Path, damaged: dict[int, str]) -> UserError:
    """Returns the error for a folder in which all checkpoints are damaged; the reasons are by step."""
    reasons = "; ".join(f"{step}: {reason}" for step, reason in sorted(damaged.items(), reverse=True))
    return UserError(
        f"{folder} has no complete checkpoint ({reasons}): check the disk; then restore a copy of one, or remove that "
        "folder to restart"
    )


def set_aside(checkpoint: Path) -> str:
    """Renames a damaged checkpoint, so that its step can be written again, and returns the new name.

    If there are more than ``MAX_DAMAGED``, the first ones by step are removed, with a warning.

    Raises:
        OSError: it can't be renamed.
    """
    before = list_damaged(checkpoint.parent)
    numbers = [int(match[2] or 1) for path in before if (match := DAMAGED.fullmatch(path.name))
               and match[1] == checkpoint.name]  # fmt: skip
    name = f"{checkpoint.name}.damaged" + (f"-{max(numbers) + 1}" if numbers else "")
    move_folder(checkpoint, checkpoint.with_name(name))
    for path in before[: len(before) + 1 - MAX_DAMAGED]:
        try:
            remove_folder(path)
            warn(f"{path} is removed, because at most {MAX_DAMAGED} damaged checkpoints are kept")
        except OSError as error:
            warn(f"{path} can't be removed ({error.strerror or error}): remove it to make room")
    return name


def gather(number: int) -> list[int]:
    """Returns the number that each process passes, in order of processes; all must call this together."""
    if jax.process_count() == 1:
        return [number]
    return [int(one) for one in multihost_utils.process_allgather(np.int32(number))]


def wait_for_first(purpose: str) -> None:
    """Waits until all processes have called this, process 0 included."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(purpose)


def see_alike(look: Callable[[], int], folder: Path) -> int:
    """Returns the step that all processes see; all must call this together.

    They look again until a network disk shows the same to all.

    Args:
        look: function that returns the newest wanted step that this process sees, or -1 if there is none.
        folder: folder of the checkpoints.

    Raises:
        ForNowError: the processes still see different steps after ``LOOKS`` times.
    """
    # A collective does not wait for a process that is half a minute late; a barrier does.
    processes.barrier("looking for checkpoints")
    for number in range(LOOKS):
        if number:
            time.sleep(SECONDS_BETWEEN_LOOKS)
        seen = gather(look())
        if len(set(seen)) == 1:
            return seen[0]
    other = next(index for index, step in enumerate(seen) if step != seen[0])
    names = [f"the checkpoint {step}" if step >= 0 else "no checkpoint" for step in (seen[0], seen[other])]
    raise ForNowError(
        f"in {folder} process 0 sees {names[0]} as the newest, and process {other} {names[1]}, after "
        f"{LOOKS * SECONDS_BETWEEN_LOOKS:.0f} s: run the same command on all hosts again; if that does not help, check "
        "the disk that they share"
    )


def agree_on(reason: str | None) -> str | None:
    """Returns this process's reason, or that another process has one; None if no process has one."""
    at_all = gather(int(reason is not None))
    return reason or (f"process {at_all.index(1)} can't read it" if any(at_all) else None)


def warn(sentence: str) -> None:
    """Prints a sentence on standard error, as a warning."""
    print_line(f"warning: {sentence}")


def first_line(error: BaseException) -> str:
    """Returns the first line of an error's message, shortened to at most 160 characters."""
    return textwrap.shorten((str(error).splitlines() or [type(error).__name__])[0], 160, placeholder=" …")


def names_in_a_sentence(names: Iterable[str]) -> str:
    """Returns the first three names, in alphabetical order, and the number of the others."""
    names = sorted(names)
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
