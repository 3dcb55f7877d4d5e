"""Metrics for people: lines of JSON, optional TensorBoard events, and a progress bar."""

import contextlib
import json
import pathlib
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

from imagen_jax.errors import UserError
from imagen_jax.errors.packages import require_packages
from imagen_jax.runtime.progress import is_watched
from imagen_jax.runtime.progress_bars import ProgressBar, timed
from imagen_jax.storage.json_text import parse_json
from imagen_jax.storage.paths import Path, copy_files, create_folder, in_bucket, write_whole
from imagen_jax.training.monitoring.append_file import open_append_file, print_line, warn_on_write_error

FILE_NAME = "metrics.jsonl"
SECONDS_BETWEEN_LINES = 30.0


class MetricsWriter:
    """Writes ``metrics.jsonl``, one JSON object with its ``step`` per line, and optionally TensorBoard events.

    Lines that can't be written for lack of space stay queued, see ``append_file``.

    Args:
        workdir: folder of the run.
        first_step: step that the run continues from; lines of later steps, from before an interruption, are removed.
        tensorboard: whether to write TensorBoard events too, into ``workdir/tensorboard``.
        name: name of the file.

    Raises:
        UserError: ``tensorboard`` is True and tensorboardX is not installed, or a line of the file is damaged.
    """

    def __init__(self, workdir: Path, first_step: int = 0, tensorboard: bool = False, name: str = FILE_NAME) -> None:
        create_folder(workdir)
        path = workdir / name
        keep_lines_until(path, first_step)
        self._events = open_tensorboard(workdir / "tensorboard", first_step) if tensorboard else None
        self._file = open_append_file(path)

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()
        if self._events is not None:
            self._events.close()

    def write(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Writes the metrics of a step, to a disk at once, to a bucket soon; TensorBoard needs numbers."""
        self._file.write(json.dumps({"step": step, **metrics}) + "\n")
        self._file.flush()
        if self._events is not None:
            for name, value in metrics.items():
                self._events.add_scalar(name, value, step)

    def flush(self) -> None:
        """Writes all queued lines, and uploads TensorBoard events to a bucket.

        Call it before a checkpoint is written: an interrupted run continues after the checkpoint and does not write
        these lines again.
        """
        self._file.upload()
        if isinstance(self._events, EventsForBucket):
            self._events.flush()


def read_metrics(workdir: Path, name: str = FILE_NAME) -> list[dict[str, Any]]:
    """Reads the lines of a run's metrics, as dicts; an incomplete last line is omitted.

    Raises:
        UserError: a line is damaged.
    """
    path = workdir / name
    if not path.exists():
        return []
    content = path.read_bytes()
    lines = content[: content.rfind(b"\n") + 1].splitlines()
    try:
        parsed = [parse_json(line) for line in lines]
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}): remove the lines that are not JSON") from None
    for line in parsed:
        if not isinstance(line, dict) or not isinstance(line.get("step"), int):
            raise UserError(f"{path} is damaged (a line is not an object with a step): remove that line")
    return parsed


def peak_memory_gib() -> float:
    """Returns the max memory of this process so far, in GiB; macOS counts it in bytes, Linux in KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)


def keep_lines_until(path: Path, step: int) -> None:
    """Removes the lines of steps after ``step``, and an incomplete last line."""
    if not path.exists():
        return
    kept = [line for line in read_metrics(path.parent, path.name) if line["step"] <= step]
    write_whole(path, "".join(json.dumps(line) + "\n" for line in kept).encode())


def check_tensorboard() -> None:
    """Checks that TensorBoard's events can be written.

    Raises:
        UserError: tensorboardX is not installed.
    """
    require_packages("tensorboardX", what="--config.training.tensorboard=True")


def open_tensorboard(folder: Path, first_step: int) -> Any:
    """Opens TensorBoard's event files; their steps after ``first_step`` are no longer shown.

    Raises:
        UserError: tensorboardX is not installed.
    """
    check_tensorboard()
    from tensorboardX import SummaryWriter

    if in_bucket(folder):
        return EventsForBucket(SummaryWriter, folder, first_step)
    return SummaryWriter(str(folder), purge_step=first_step + 1)


class EventsForBucket:
    """TensorBoard's event files, written on this machine and uploaded on ``flush`` and ``close``.

    tensorboardX can write to a bucket, but then it keeps everything in memory and uploads it again when Python exits.
    """

    def __init__(self, open_writer: Callable[..., Any], folder: Path, first_step: int) -> None:
        self._folder = folder
        self._local = tempfile.TemporaryDirectory()
        self._writer = open_writer(self._local.name, purge_step=first_step + 1)

    def add_scalar(self, name: str, value: float, step: int) -> None:
        """Adds a number under a name and a step."""
        self._writer.add_scalar(name, value, step)

    def flush(self) -> None:
        """Uploads the event files. If the bucket refuses, it warns, and the next call uploads them."""
        self._writer.flush()
        with warn_on_write_error(str(self._folder)):
            copy_files(pathlib.Path(self._local.name), self._folder)

    def close(self) -> None:
        """Closes the writer and uploads the event files."""
        self._writer.close()
        self.flush()
        self._local.cleanup()


class Progress:
    """A progress bar of training: steps, time left, loss and images per second.

    If standard error is neither a terminal nor a notebook, it prints lines instead: at the first step, every
    ``SECONDS_BETWEEN_LINES``, and at the last step. The first step of a start is slower than all others, so the time
    left counts from its end.
    """

    def __init__(self, title: str, first_step: int, steps: int) -> None:
        self._title = title
        self._steps = steps
        self._in_lines = not is_watched()
        self._bar = ProgressBar(title, steps, "step", initial=first_step, disable=self._in_lines)
        self._counted_from: tuple[int, float] | None = None
        self._next_line = 0.0
        self._opened = contextlib.ExitStack()

    def __enter__(self) -> "Progress":
        if self._in_lines:
            self._opened.enter_context(timed(self))
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._opened.close()
        self._bar.close()

    def hide(self) -> None:
        """Does nothing: a printed line stays."""

    def leave_out(self, seconds: float) -> None:
        """Does not count the seconds of a compilation."""
        if self._counted_from is not None:
            step, began = self._counted_from
            self._counted_from = step, began + seconds

    def note(self, step: int) -> None:
        """Learns that a step has ended; the first one is shown at once."""
        if self._counted_from is not None:
            return
        now = time.monotonic()
        self._counted_from, self._next_line = (step, now), now + SECONDS_BETWEEN_LINES
        if self._in_lines:
            print_line(f"{self._title}: {step}/{self._steps} steps")
        else:
            self._bar.count_from(step)

    def update(self, step: int, loss: float, images_per_second: float) -> None:
        """Moves the bar to ``step``."""
        self.note(step)
        status = f"loss {loss:.4f}, {images_per_second:.1f} images/s"
        if not self._in_lines:
            self._bar.set_postfix_str(status, refresh=False)
            self._bar.update(step - self._bar.n)
            return
        now = time.monotonic()
        if now >= self._next_line or step == self._steps:
            self._next_line = now + SECONDS_BETWEEN_LINES
            first, began = self._counted_from or (step, now)
            left = (now - began) * (self._steps - step) / max(step - first, 1)
            remaining = f"{ProgressBar.format_interval(left)} left, " if step > first else ""
            print_line(f"{self._title}: {step}/{self._steps} steps, {remaining}{status}")
