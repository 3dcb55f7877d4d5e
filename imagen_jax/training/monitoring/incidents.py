"""What went wrong with the numbers of a run, and in which batches: for people to look at.

    host batches -> their keys, remembered for a few steps
    a loss spike, a skipped step -> a line on standard error and in incidents.jsonl, once in a while
    too many skipped steps in a row -> incidents/<step>.json

Where several processes train together, each has its own part of every batch, so each writes its own files:
``incidents.1.jsonl`` and ``incidents/0000157.1.json`` are those of process 1. Only process 0 speaks.
"""

import json
import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax

from imagen_jax.runtime import processes
from imagen_jax.storage.paths import Path, create_folder, write_whole
from imagen_jax.training.loop import Batches
from imagen_jax.training.monitoring.append_file import print_line
from imagen_jax.training.monitoring.metrics import MetricsWriter, keep_lines_until

STEPS_BETWEEN_REPORTS = 100
"""Of one kind; those between are counted, not told."""


class StepSeen(NamedTuple):
    """A step and the numbers that it gave.

    Attributes:
        step: its number.
        loss: of its batch.
        gradient_norm: likewise.
        keys: of this process's part of its batch.
    """

    step: int
    loss: float
    gradient_norm: float
    keys: Sequence[str]

    def as_json(self) -> dict[str, Any]:
        """What the files hold of it."""
        return {name: writable(value) for name, value in self._asdict().items()}


class KeyedBatches:
    """Batches whose keys are remembered by the step that learns from them, however far ahead they are fetched.

    Args:
        batches: host batches, dicts with ``key``; the next is the first that is learned from.
        done: the steps before it.
        remembered: of how many of the last batches.
    """

    def __init__(self, batches: Batches, done: int, remembered: int) -> None:
        self._batches = batches
        self._fetched = done
        self._keys: deque[tuple[int, Any]] = deque(maxlen=remembered)

    def __next__(self) -> Any:
        batch = next(self._batches)
        self._fetched += 1
        self._keys.append((self._fetched, batch["key"]))
        return batch

    def keys_of(self, step: int) -> list[str]:
        """The keys of a step's batch."""
        (keys,) = (keys for number, keys in self._keys if number == step)
        return [str(key) for key in keys]

    def get_state(self) -> Any:
        """The position, as that of the batches."""
        return self._batches.get_state()

    def set_state(self, state: Any) -> None:
        """Goes to a position, for the next step."""
        self._batches.set_state(state)


class Incidents:
    """Writes them down.

    Args:
        workdir: the run's folder.
        done: the step that the run continues from; what was told of later ones is dropped, for they are done again.
    """

    def __init__(self, workdir: Path, done: int) -> None:
        self._workdir = workdir
        part = "" if processes.is_process_zero() else f".{jax.process_index()}"
        self._lines = f"incidents{part}.jsonl"
        self._ending = f"{part}.json"
        self._told: dict[str, int] = {}
        keep_lines_until(workdir / self._lines, done)

    def report(self, kind: str, seen: StepSeen, sentence: str, **more: float) -> None:
        """Tells of a step, unless one of its kind was told of just before.

        Args:
            kind: what happened, in a word.
            seen: the step.
            sentence: the same for people.
            **more: what else the line holds.
        """
        if seen.step - self._told.get(kind, -STEPS_BETWEEN_REPORTS) < STEPS_BETWEEN_REPORTS:
            return
        self._told[kind] = seen.step
        warn_once(f"{sentence} ({self._workdir / self._lines} has the batch's keys)")
        with MetricsWriter(self._workdir, seen.step, name=self._lines) as writer:
            line = seen.as_json()
            writer.write(line.pop("step"), {"kind": kind, **line, **more})

    def dump(self, seen: Sequence[StepSeen], facts: Mapping[str, Any]) -> Path:
        """Writes down some steps and what is said of them all, in a file named for the last; returns where."""
        folder = self._workdir / "incidents"
        create_folder(folder)
        path = folder / f"{seen[-1].step:07d}{self._ending}"
        content = {**facts, "steps": [one.as_json() for one in seen]}
        write_whole(path, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())
        return path


def writable(value: Any) -> Any:
    """A value as JSON has it; what is not finite, which JSON lacks, by its name."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def warn_once(sentence: str) -> None:
    """Says a sentence on standard error; once, where several processes train together."""
    if processes.is_process_zero():
        print_line(sentence)
