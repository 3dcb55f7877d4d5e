"""Records of bad numbers in a run and of the batches that caused them, for people to inspect.

    host batches -> their keys, stored for a few steps
    a loss spike, a skipped step -> a line on standard error and in incidents.jsonl, at limited intervals
    too many consecutive skipped steps -> incidents/<step>.json

If several processes train together, each has its own part of every batch and writes its own files:
``incidents.1.jsonl`` and ``incidents/0000157.1.json`` are those of process 1. Only process 0 prints.
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
"""Min steps between two reports of one kind; incidents in between are not reported."""


class StepSeen(NamedTuple):
    """A step and its metrics.

    Attributes:
        step: number of the step.
        loss: loss of the step's batch.
        gradient_norm: gradient norm of the step's batch.
        keys: keys of this process's part of the batch.
    """

    step: int
    loss: float
    gradient_norm: float
    keys: Sequence[str]

    def as_json(self) -> dict[str, Any]:
        """Returns the step's values for the JSON files."""
        return {name: writable(value) for name, value in self._asdict().items()}


class KeyedBatches:
    """Batches that store their keys by step number, however far ahead they are fetched.

    Args:
        batches: host batches, dicts with ``key``; the next one is for step ``done + 1``.
        done: step that the run continues from.
        remembered: number of last batches whose keys are stored.
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
        """Returns the keys of a step's batch."""
        (keys,) = (keys for number, keys in self._keys if number == step)
        return [str(key) for key in keys]

    def get_state(self) -> Any:
        """Returns the position of the batches."""
        return self._batches.get_state()

    def set_state(self, state: Any) -> None:
        """Restores a position, for the next step."""
        self._batches.set_state(state)


class Incidents:
    """Reports incidents on standard error and writes them to files.

    Args:
        workdir: folder of the run.
        done: step that the run continues from; lines of later steps are removed, because these steps are repeated.
    """

    def __init__(self, workdir: Path, done: int) -> None:
        self._workdir = workdir
        part = "" if processes.is_process_zero() else f".{jax.process_index()}"
        self._lines = f"incidents{part}.jsonl"
        self._ending = f"{part}.json"
        self._reported_at: dict[str, int] = {}
        keep_lines_until(workdir / self._lines, done)

    def report(self, kind: str, seen: StepSeen, sentence: str, **more: float) -> None:
        """Reports a step, unless one of its kind was reported within the last ``STEPS_BETWEEN_REPORTS`` steps.

        Args:
            kind: kind of incident, in one word.
            seen: the step.
            sentence: description for people.
            **more: other values of the line.
        """
        if seen.step - self._reported_at.get(kind, -STEPS_BETWEEN_REPORTS) < STEPS_BETWEEN_REPORTS:
            return
        self._reported_at[kind] = seen.step
        warn_once(f"{sentence} ({self._workdir / self._lines} has the batch's keys)")
        with MetricsWriter(self._workdir, seen.step, name=self._lines) as writer:
            line = seen.as_json()
            writer.write(line.pop("step"), {"kind": kind, **line, **more})

    def dump(self, seen: Sequence[StepSeen], facts: Mapping[str, Any]) -> Path:
        """Writes steps and facts about them to a file named for the last step; returns its path."""
        folder = self._workdir / "incidents"
        create_folder(folder)
        path = folder / f"{seen[-1].step:07d}{self._ending}"
        content = {**facts, "steps": [one.as_json() for one in seen]}
        write_whole(path, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())
        return path


def writable(value: Any) -> Any:
    """Returns a value that JSON can represent: non-finite numbers become strings."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def warn_once(sentence: str) -> None:
    """Prints a sentence on standard error, on process 0 only."""
    if processes.is_process_zero():
        print_line(sentence)
