"""The log of a training run: a line of metrics and the progress bar, at regular intervals.

If several processes train together, only process 0 writes it: the metrics of a step are the same in each.

The numbers in ``metrics.jsonl`` that depend on time cover

    images_per_second, images_per_second_per_chip, mfu, input_wait    the steps since the last line,
    loss_log_snr_…                                                    the same steps of this start,
    seconds, overhead, overhead_of_loop, checkpoint_seconds           this start of the run,
    useful_seconds, goodput, skipped                                  the run, with all its starts:

- ``images_per_second``: images divided by the seconds in steps and waiting for batches.
- ``mfu``, model FLOP utilisation: the operations of the loss and its gradient (matrix products and convolutions,
  without rematerialisation), divided by the chips' peak in those seconds. It is omitted if the peak is unknown.
- ``input_wait``: the fraction of those seconds in which the devices waited for a batch.
- ``overhead``: the fraction of the loop's wall time, ``seconds``, outside the compiled step; ``overhead_of_loop``: the
  same without batches, previews and checkpoints.
- ``checkpoint_seconds``: time in which training paused for checkpoints; they are written in the background.
- ``useful_seconds``: time inside steps whose result is in the run. A step that a restart repeats counts once.
- ``goodput``: ``useful_seconds`` divided by the wall time since the first start had its data ready, including the time
  in which no process ran.
- ``loss_log_snr_below_-6``, ``loss_log_snr_-6_to_-4``, … ``loss_log_snr_above_6``: mean loss of the examples whose
  log-SNR is in this range; see ``noise_levels``. A range without examples is left out.
- ``epochs``: number of passes over the data set; of several data sets ``epochs_1``, ``epochs_2``, …
- ``learning_rate``: learning rate of the step; Muon's Adam takes ``optimizer.adam_ratio`` times that.
- ``skipped``: number of steps of the run that were skipped because their loss or gradient was not finite.
- ``unreadable_images``: number of images that this process could not read and skipped, since this start.

A restart continues ``useful_seconds`` from the last line at or before its checkpoint. So if ``log_every`` does not
divide ``checkpoint_every``, the few steps between the two are missing.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import jax

from imagen_jax.config.sections import LoopConfig
from imagen_jax.runtime import processes
from imagen_jax.storage.json_text import read_json
from imagen_jax.storage.paths import Path, write_whole
from imagen_jax.training.loop import Hook, LoopClock, StepInfo
from imagen_jax.training.monitoring.metrics import MetricsWriter, Progress, peak_memory_gib, read_metrics
from imagen_jax.training.monitoring.noise_levels import NoiseLevelSums
from imagen_jax.training.step import AUX

BEGAN = "began.json"
"""File in the workdir that contains the time at which the run started."""


@contextmanager
def open_log(
    training: LoopConfig,
    workdir: Path,
    done: int,
    clock: LoopClock,
    of_data: Callable[[Any], Mapping[str, float]] = lambda data_state: {},
    mfu: Callable[[float], float] | None = None,
) -> Iterator[list[Hook]]:
    """Opens the log of a run and yields the hooks that write it; on processes other than 0 there are none.

    Args:
        training: settings of the run.
        workdir: folder of the run.
        done: step that the run continues from.
        clock: the loop's clock.
        of_data: function from the data position to metrics of the data and of skipped steps.
        mfu: function from steps per second to model FLOP utilisation; None if unknown.
    """
    if not processes.is_process_zero():
        yield []
        return
    with MetricsWriter(workdir, first_step=done, tensorboard=training.tensorboard) as writer:
        with Progress(f"Training {workdir.name}", done, training.steps) as progress:
            goodput = Goodput(workdir)
            levels = NoiseLevelSums()
            act = make_logging(training.batch_size, writer, progress, clock, goodput, mfu, of_data, levels)

            def note_step(number: int, info: StepInfo) -> None:
                progress.note(number)
                levels.add(info.metrics)

            note = Hook("log", 1, note_step)
            # The lines up to the step of a checkpoint must be written before the checkpoint.
            flush = Hook("log", training.checkpoint_every, lambda number, info: writer.flush())
            yield [note, Hook("log", training.log_every, act), flush]


def make_logging(
    batch_size: int,
    writer: MetricsWriter,
    progress: Progress,
    clock: LoopClock,
    goodput: "Goodput",
    mfu: Callable[[float], float] | None,
    of_data: Callable[[Any], Mapping[str, float]] = lambda data_state: {},
    levels: NoiseLevelSums | None = None,
) -> Callable[[int, StepInfo], None]:
    """Makes the action of the hook that writes a line of metrics and moves the progress bar.

    Args:
        batch_size: images per step.
        writer: writer of the lines.
        progress: the progress bar.
        clock: the loop's clock.
        goodput: goodput of the run.
        mfu: function from steps per second to model FLOP utilisation; None if unknown.
        of_data: function from the data position to metrics of the data and of skipped steps.
        levels: losses by noise level since the last line; None if they are not recorded.
    """
    before_steps, before_seconds, before_input = 0, 0.0, 0.0

    def log(number: int, info: StepInfo) -> None:
        nonlocal before_steps, before_seconds, before_input
        waited = clock.outside_seconds.get("input", 0.0)
        steps, input_seconds = clock.steps - before_steps, waited - before_input
        seconds = max(clock.step_seconds - before_seconds + input_seconds, 1e-9)
        before_steps, before_seconds, before_input = clock.steps, clock.step_seconds, waited
        scalars = {name: value for name, value in info.metrics.items() if name != AUX}
        scalars |= named_numbers(info.metrics)
        metrics = {name: float(value) for name, value in jax.device_get(scalars).items()}
        rate = steps * batch_size / seconds
        writer.write(
            number,
            {
                **metrics,
                **(levels.take() if levels else {}),
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
                **of_data(info.data_state),
            },
        )
        progress.update(number, metrics["loss"], rate)

    return log


def named_numbers(metrics: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns what the loss returned besides its value, if that is a dict of numbers; those of a stage are no dict."""
    aux = metrics.get(AUX)
    return aux if isinstance(aux, Mapping) else {}


class Goodput:
    """The fraction of a run's wall time in steps that count, over all its starts; see the module docstring.

    Args:
        workdir: folder of the run; its lines of metrics end at the step that the run continues from.
    """

    def __init__(self, workdir: Path) -> None:
        path = workdir / BEGAN
        if not path.exists():
            # A run of an older version has no such file, and its time counts from now.
            write_whole(path, (json.dumps({"unix_seconds": time.time()}) + "\n").encode())
        self._began = read_json(path)["unix_seconds"]
        self._before = max((line.get("useful_seconds", 0.0) for line in read_metrics(workdir)), default=0.0)

    def of(self, step_seconds: float) -> dict[str, float]:
        """Returns the metrics, given the seconds inside steps since this start."""
        useful = self._before + step_seconds
        return {"useful_seconds": useful, "goodput": useful / max(time.time() - self._began, 1e-9)}
