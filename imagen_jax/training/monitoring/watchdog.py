"""Observes a run from outside: traces some steps, and reports a step that hangs.

Neither changes the devices' work: the trace wraps the compiled step, and the watchdog is a thread that only reads.
"""

import pathlib
import re
import shutil
import sys
import tempfile
import threading
import time
import traceback
from typing import Any, NamedTuple

import jax

from imagen_jax.errors import UserError
from imagen_jax.runtime import processes
from imagen_jax.storage.paths import Path, copy_files, in_bucket
from imagen_jax.training.loop import Hook, StepInfo
from imagen_jax.training.state import TrainState
from imagen_jax.training.step import Batch, TrainStep


class Watch(NamedTuple):
    """Settings of the profiler and the watchdog.

    Attributes:
        traced: first and last step to trace; None for no trace.
        hang_seconds: seconds without progress after which the watchdog reports; 0 for no watchdog.
        end_when_hung: whether the watchdog then ends the process.
    """

    traced: tuple[int, int] | None = None
    hang_seconds: float = 0.0
    end_when_hung: bool = False


NOT_WATCHED = Watch()


def parse_steps(text: str | None) -> tuple[int, int] | None:
    """Parses ``--profile_steps=first,last``.

    Raises:
        UserError: the text has another format, or does not satisfy 1 ≤ first ≤ last.
    """
    if text is None:
        return None
    if not re.fullmatch(r"\d+,\d+", text):
        raise UserError(f"--profile_steps={text} is not a pair of steps: give two, as in --profile_steps=20,24")
    first, last = (int(number) for number in text.split(","))
    if not 1 <= first <= last:
        raise UserError(f"--profile_steps={text} is not a range of steps: the first must be from 1 to the last")
    return first, last


def check_traced(traced: tuple[int, int] | None, done: int, steps: int) -> None:
    """Checks that a run includes the steps to trace.

    Raises:
        UserError: it does not.
    """
    if traced is not None and (traced[0] <= done or traced[1] > steps):
        first, last = traced
        raise UserError(f"--profile_steps={first},{last} is outside this run: choose from steps {done + 1} to {steps}")


def trace_steps(step: TrainStep, traced: tuple[int, int] | None, done: int, steps: int, folder: Path) -> TrainStep:
    """Wraps a compiled step so that JAX's profiler traces some of its calls.

    Args:
        step: compiled step.
        traced: first and last step to trace; None returns ``step`` unchanged.
        done: step that the run continues from.
        steps: number of the last step.
        folder: folder for the trace; TensorBoard's profile plugin and xprof read it.

    Raises:
        UserError: the run does not include the steps to trace.
    """
    if traced is None:
        return step
    check_traced(traced, done, steps)
    first, last = traced
    # The profiler can't write to buckets.
    written = pathlib.Path(tempfile.mkdtemp(prefix="trace-")) if in_bucket(folder) else folder
    number = done

    def traced_step(state: TrainState, batch: Batch) -> Any:
        nonlocal number
        number += 1
        if number == first:
            jax.profiler.start_trace(str(written))
        result = step(state, batch)
        if number == last:
            jax.block_until_ready(result)
            jax.profiler.stop_trace()
            if written != folder:
                copy_files(written, folder)
                shutil.rmtree(written)
            print(f"The trace of steps {first} to {last} is in {folder}.")
        return result

    return traced_step


class Watchdog:
    """Reports on standard error when nothing has finished for long: no step, preview or checkpoint.

    The time starts when the block is entered, after the step is compiled, and restarts with each ``note``. The loop
    calls ``note`` after each step and again after the other hooks. A report contains the step, the stack of the main
    thread, and the last step of each process, as published a few seconds ago. It does not query the devices, because
    that would hang as well.

    Args:
        seconds: seconds without progress before a report; 0 for no watchdog.
        end_when_hung: whether to end the process after a report.
        first_step: step that the run continues from.
    """

    def __init__(self, seconds: float, end_when_hung: bool = False, first_step: int = 0) -> None:
        self._seconds = seconds
        self._end_when_hung = end_when_hung
        self._step = first_step
        self._last_progress = time.monotonic()
        self._watched = threading.get_ident()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watches for a step that hangs", daemon=True)

    def __enter__(self) -> "Watchdog":
        self.note(self._step)
        if self._seconds:
            self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        if self._seconds:
            self._thread.join()

    def note(self, step: int) -> None:
        """Notes that a step, or the work after it, has finished."""
        self._step, self._last_progress = step, time.monotonic()

    def _watch(self) -> None:
        reported = self._last_progress
        while not self._over.wait(self._seconds / 10):
            since = time.monotonic() - max(self._last_progress, reported)
            if since > self._seconds:
                reported = time.monotonic()
                self._report(reported - self._last_progress)

    def _report(self, seconds: float) -> None:
        others = ", ".join(f"process {index}: {step}" for index, step in sorted(processes.last_steps().items()))
        sentence = f"nothing has finished for {seconds:.0f} s since step {self._step}"
        stack = "".join(traceback.format_stack(sys._current_frames()[self._watched]))
        each = f"Last steps: {others}.\n" if others else ""
        print(f"watchdog: {sentence}. {each}Stack of the main thread:\n{stack}", file=sys.stderr, flush=True)
        if self._end_when_hung:
            processes.announce_exit(sentence)
            processes.end(f"{sentence}, and --end_when_hung is set: run the same command again to continue")


def make_heartbeat_hook(watchdog: Watchdog) -> Hook:
    """Makes the hook that reports each step to the watchdog and to the other processes."""

    def note(number: int, info: StepInfo) -> None:
        processes.note_step(number)
        watchdog.note(number)

    return Hook("loop", 1, note)
