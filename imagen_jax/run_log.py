"""What a training run tells while it runs: a line of metrics and the progress bar, every so many steps.

Where several processes train together, process 0 tells for all: the metrics of a step are the same in each.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
from ml_collections import ConfigDict

from imagen_jax import processes
from imagen_jax.training.loop import Hook, LoopClock, Moment
from imagen_jax.training.metrics import MetricsWriter, Progress, peak_memory_gib


@contextmanager
def open_log(config: ConfigDict, workdir: Path, done: int, clock: LoopClock) -> Iterator[list[Hook]]:
    """Opens what a run tells, as the hooks that write it; in all processes but the first there are none.

    Args:
        config: the stage's config.
        workdir: the run's folder.
        done: the step that the run continues from.
        clock: the loop's clock.
    """
    if not processes.is_first():
        yield []
        return
    with MetricsWriter(workdir, first_step=done, tensorboard=config.training.tensorboard) as writer:
        with Progress(f"Training {workdir.name}", done, config.training.steps) as progress:
            yield [Hook("log", config.training.log_every, make_logging(config, writer, progress, clock))]


def make_logging(
    config: ConfigDict, writer: MetricsWriter, progress: Progress, clock: LoopClock
) -> Callable[[int, Moment], None]:
    """Makes the hook that writes a line of metrics and moves the progress bar.

    ``images_per_second`` is over the compiled steps since the last line; ``overhead`` is the share of all the loop's
    time so far spent between steps, ``overhead_of_loop`` the same without previews and checkpoints.
    """
    before = LoopClock()

    def log(number: int, moment: Moment) -> None:
        steps, seconds = clock.steps - before.steps, clock.step_seconds - before.step_seconds
        before.steps, before.step_seconds = clock.steps, clock.step_seconds
        metrics = {name: float(value) for name, value in jax.device_get(moment.metrics).items()}
        rate = steps * config.training.batch_size / max(seconds, 1e-9)
        writer.write(
            number,
            {
                **metrics,
                "images_per_second": rate,
                "seconds": clock.total_seconds,
                "overhead": clock.overhead(),
                "overhead_of_loop": clock.overhead("loop", "log"),
                "peak_memory_gib": peak_memory_gib(),
            },
        )
        progress.update(number, metrics["loss"], rate)

    return log
