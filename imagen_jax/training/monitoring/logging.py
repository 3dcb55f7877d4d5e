"""What a training run tells while it runs: a line of metrics and the progress bar, every so many steps.

Where several processes train together, process 0 tells for all: the metrics of a step are the same in each.

Of the numbers in ``metrics.jsonl`` that speak of time,

    images_per_second, images_per_second_per_chip, mfu, input_wait    are over the steps since the last line,
    seconds, overhead, overhead_of_loop, checkpoint_seconds           over this start of the run,
    useful_seconds, goodput, skipped                                  over the run, with all its starts:

- ``images_per_second``: images over the seconds in steps and waiting for batches.
- ``mfu``, model FLOP utilisation: the operations of the loss and its gradient (matrix products and convolutions,
  nothing that is computed again to save memory) over what the chips could do in those seconds at their peak. It is left
  out where the peak is unknown.
- ``input_wait``: the share of those seconds that the devices waited for a batch.
- ``overhead``: the share of the loop's wall time, ``seconds``, outside the compiled step; ``overhead_of_loop``: the
  same without batches, previews and checkpoints.
- ``checkpoint_seconds``: how long training stood still for checkpoints; their writing goes on beside it.
- ``useful_seconds``: time inside steps whose result is in the run. A step that a restart does again counts once.
- ``goodput``: ``useful_seconds`` over the wall time since the first start had its data ready, the time in which no
  process ran included.
- ``epochs``: how often the data set was read through; of several data sets ``epochs_1``, ``epochs_2``, …
- ``learning_rate``: that the step took; of Muon's Adam it is ``optimizer.adam_ratio`` times that.
- ``skipped``: how many steps of the run were skipped, for their loss or gradient was not finite.
- ``unreadable_images``: how many images this process could not read and left out, since this start.

A restart's ``useful_seconds`` go on from those in the last line up to the checkpoint it continues from; so where
``log_every`` does not divide ``checkpoint_every``, the few steps between the two are missing.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import jax
from ml_collections import ConfigDict

from imagen_jax.runtime import processes
from imagen_jax.storage.json_text import read_json
from imagen_jax.storage.paths import Path, write_whole
from imagen_jax.training.loop import Hook, LoopClock, StepInfo
from imagen_jax.training.monitoring.metrics import MetricsWriter, Progress, peak_memory_gib, read_metrics

BEGAN = "began.json"
"""In the workdir: when the run began."""


@contextmanager
def open_log(
    config: ConfigDict,
    workdir: Path,
    done: int,
    clock: LoopClock,
    of_data: Callable[[Any], Mapping[str, float]] = lambda data_state: {},
    mfu: Callable[[float], float] | None = None,
) -> Iterator[list[Hook]]:
    """Opens what a run tells, as the hooks that write it; in all processes but the first there are none.

    Args:
        config: the stage's config.
        workdir: the run's folder.
        done: the step that the run continues from.
        clock: the loop's clock.
        of_data: what is to be told of the reading up to a place in the data, and of what was skipped.
        mfu: from steps per second to model FLOP utilisation; None where that is unknown.
    """
    if not processes.is_process_zero():
        yield []
        return
    with MetricsWriter(workdir, first_step=done, tensorboard=config.training.tensorboard) as writer:
        with Progress(f"Training {workdir.name}", done, config.training.steps) as progress:
            goodput = Goodput(workdir)
            act = make_logging(config.training.batch_size, writer, progress, clock, goodput, mfu, of_data)
            # The lines that lead to a checkpoint must be there before it.
            flush = Hook("log", config.training.checkpoint_every, lambda number, moment: writer.flush())
            yield [Hook("log", config.training.log_every, act), flush]


def make_logging(
    batch_size: int,
    writer: MetricsWriter,
    progress: Progress,
    clock: LoopClock,
    goodput: "Goodput",
    mfu: Callable[[float], float] | None,
    of_data: Callable[[Any], Mapping[str, float]] = lambda data_state: {},
) -> Callable[[int, StepInfo], None]:
    """Makes the hook that writes a line of metrics and moves the progress bar.

    Args:
        batch_size: images of a step.
        writer: of the lines.
        progress: the bar.
        clock: the loop's clock.
        goodput: of the run.
        mfu: from steps per second to model FLOP utilisation; None where that is unknown.
        of_data: what is to be told of the reading up to a place in the data, and of what was skipped.
    """
    before_steps, before_seconds, before_input = 0, 0.0, 0.0

    def log(number: int, moment: StepInfo) -> None:
        nonlocal before_steps, before_seconds, before_input
        waited = clock.outside_seconds.get("input", 0.0)
        steps, input_seconds = clock.steps - before_steps, waited - before_input
        seconds = max(clock.step_seconds - before_seconds + input_seconds, 1e-9)
        before_steps, before_seconds, before_input = clock.steps, clock.step_seconds, waited
        metrics = {name: float(value) for name, value in jax.device_get(moment.metrics).items()}
        rate = steps * batch_size / seconds
        writer.write(
            number,
            {
                **metrics,
                "images_per_second": rate,
                "images_per_second_per_chip": rate / jax.device_count(),
                **({"mfu": mfu(steps / seconds)} if mfu else {}),
                "input_wait": input_seconds / seconds,
                "seconds": clock.total_seconds,
                "overhead": clock.overhead(),
                "overhead_of_loop": clock.overhead("loop", "log"),
                "checkpoint_seconds": clock.outside_seconds.get("checkpoint", 0.0),
                **goodput.of(clock.step_seconds),
                "peak_memory_gib": peak_memory_gib(),
                **of_data(moment.data_state),
            },
        )
        progress.update(number, metrics["loss"], rate)

    return log


class Goodput:
    """Which share of a run's wall time went into steps that count, over all its starts; see the module.

    Args:
        workdir: the run's folder; its lines of metrics end where the run continues.
    """

    def __init__(self, workdir: Path) -> None:
        path = workdir / BEGAN
        if not path.exists():
            # A run of an older version begins to count now.
            write_whole(path, (json.dumps({"unix_seconds": time.time()}) + "\n").encode())
        self._began = read_json(path)["unix_seconds"]
        self._before = max((line.get("useful_seconds", 0.0) for line in read_metrics(workdir)), default=0.0)

    def of(self, step_seconds: float) -> dict[str, float]:
        """The metrics, given the seconds inside steps since this start."""
        useful = self._before + step_seconds
        return {"useful_seconds": useful, "goodput": useful / max(time.time() - self._began, 1e-9)}
