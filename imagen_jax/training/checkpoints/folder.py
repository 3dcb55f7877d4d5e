"""The folder of a run's checkpoints: which lie there, which are whole, and what becomes of those that are not.

checkpoints/500/                        whole, or so it seems
checkpoints/750.orbax-checkpoint-tmp*   being written; left by a run that was killed meanwhile, it is removed
checkpoints/1000.damaged/               was the newest and could not be read; kept for people, no program counts it
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
"""What Orbax writes last. In a bucket, where no folder can be renamed, it alone tells a whole checkpoint."""

PARTS = ("_CHECKPOINT_METADATA", "ema_params/_METADATA")
"""What lies in the folder of every checkpoint; ``state/`` may be removed from one that is only to sample from."""

MAX_DAMAGED = 2
"""How many damaged checkpoints are kept; each is as large as a whole one, and pushed out by nothing else."""

LOOKS = 40
SECONDS_BETWEEN_LOOKS = 0.5
"""How often processes look whether they see the same, before they give up: a network's disk may take its time."""


class DamageError(Exception):
    """A checkpoint is not as it was written: its message is what is wrong with it, in a few words."""


def list_steps(folder: Path) -> list[Path]:
    """The folders that are named for a step, whole or not, in their order."""
    return sorted((path for path in names_in(folder) if path.name.isdecimal()), key=lambda path: int(path.name))


def list_damaged(folder: Path) -> list[Path]:
    """The checkpoints that were set aside: of the earliest step first, and of one step in the order of their going."""
    found = [(match, path) for path in names_in(folder) if (match := DAMAGED.fullmatch(path.name))]
    return [path for _, path in sorted(found, key=lambda one: (int(one[0][1]), int(one[0][2] or 1)))]


DAMAGED = re.compile(r"(\d+)\.damaged(?:-(\d+))?")


def names_in(folder: Path) -> list[Path]:
    """What lies in a folder; nothing where there is none.

    Raises:
        OSError: it can't be seen. A bucket that does not answer must not pass for one without checkpoints.
    """
    try:
        return list(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


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


def is_empty(checkpoint: Path) -> bool:
    """Whether nothing of a checkpoint of this machine is there."""
    return not in_bucket(checkpoint) and is_leftover(checkpoint)


def steps_to_keep(
    steps: Sequence[int], newest: int, every: int, counts: Callable[[int], bool] = lambda step: True
) -> set[int]:
    """Which of some checkpoints stay: the newest, and as a milestone the first of each ``every`` steps.

    Args:
        steps: of the checkpoints, in their order.
        newest: how many of the newest stay.
        every: steps from milestone to milestone; 0 keeps none.
        counts: whether that of a step counts. One that does not pushes out none that does, is no milestone, and stays
            where too few count, or while it is the newest of all: from there the run would continue.
    """
    milestones: dict[int, int] = {}
    for step in steps:
        if every and step >= every and counts(step):
            milestones.setdefault(step // every, step)
    by_worth = sorted(steps, key=lambda step: (counts(step), step))
    return {*by_worth[-newest:], *steps[-1:], *milestones.values()}


class Kept:
    """Orbax's question of which checkpoints stay, answered by ``steps_to_keep``.

    Args:
        newest: see there.
        every: likewise.

    Attributes:
        counts: likewise; to be set by who knows better than that all do.

    Raises:
        UserError: it would keep none.
    """

    def __init__(self, newest: int, every: int) -> None:
        if newest < 1:
            raise UserError(f"config.training.keep_checkpoints={newest} keeps none: set it to at least 1")
        if every < 0:
            raise UserError(f"config.training.keep_every={every} is no number of steps: set 0 to keep no milestones")
        self._newest, self._every = newest, every
        self.counts: Callable[[int], bool] = lambda step: True

    def choose(self, steps: Sequence[int]) -> set[int]:
        """Those of some steps, in their order, that stay."""
        return steps_to_keep(steps, self._newest, self._every, self.counts)

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """Whether each of all checkpoints stays."""
        steps = [checkpoint.step for checkpoint in checkpoints]
        kept = self.choose(steps)
        return [step in kept for step in steps]


def remove_leftovers(folder: Path, kept: Kept) -> None:
    """Removes what a run killed while it wrote or deleted has left; Orbax would count some of it as checkpoints.

    What is none of that but incomplete is set aside.

    Args:
        folder: of the checkpoints.
        kept: which ones stay.
    """
    if jax.process_index() == 0:
        for path in folder.glob("*.orbax-checkpoint-tmp*"):
            remove_unfinished_checkpoint(path)
        there = list_steps(folder)
        incomplete = [path for path in there if not is_complete(path)]
        staying = kept.choose([int(path.name) for path in there])
        for path in incomplete:
            # One that is not to be kept was being deleted, since better ones had come.
            if is_leftover(path) or int(path.name) not in staying:
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


def none_is_whole(folder: Path, damaged: dict[int, str]) -> UserError:
    """What to say where all checkpoints are damaged; the reasons are by step."""
    reasons = "; ".join(f"{step}: {reason}" for step, reason in sorted(damaged.items(), reverse=True))
    return UserError(
        f"{folder} holds no checkpoint that is whole ({reasons}): if the disk is well, put back a copy of one, or "
        "remove that folder to begin anew"
    )


def set_aside(checkpoint: Path) -> str:
    """Gives a damaged checkpoint another name, and returns that: its step can be written again, and nothing is lost.

    Where there are too many such, the oldest of them is removed, with a warning.

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
            warn(f"{path} is removed, for only {MAX_DAMAGED} damaged checkpoints are kept")
        except OSError as error:
            warn(f"{path} can't be removed ({error.strerror or error}): do that to make room")
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


def see_alike(look: Callable[[], int], folder: Path) -> int:
    """The step that all processes see; all must call this together. They look again until a network's disk shows all.

    Args:
        look: the newest step that this process sees, of those that are wanted; -1 where there is none.
        folder: of the checkpoints.

    Raises:
        ForNowError: they go on seeing different ones.
    """
    # What devices gather does not wait for whoever comes half a minute later.
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
        f"{LOOKS * SECONDS_BETWEEN_LOOKS:.0f} s: run the same command on all hosts again, and if that does not help, "
        "look at the disk that they share"
    )


def agree_on(reason: str | None) -> str | None:
    """Ours, or that another process has one; all processes come to the same answer."""
    at_all = gather(int(reason is not None))
    return reason or (f"process {at_all.index(1)} can't read it" if any(at_all) else None)


def warn(sentence: str) -> None:
    """Prints a sentence on standard error that must not be missed."""
    print_line(f"warning: {sentence}")


def first_line(error: BaseException) -> str:
    """The beginning of what an error says."""
    return textwrap.shorten((str(error).splitlines() or [type(error).__name__])[0], 160, placeholder=" …")


def names_in_a_sentence(names: Iterable[str]) -> str:
    """A few names, and how many more there are."""
    names = sorted(names)
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
