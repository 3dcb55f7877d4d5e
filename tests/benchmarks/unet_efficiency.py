"""The Efficient U-Net against the ADM U-Net on 64→256 px: speed of sampling, and convergence at equal compute.

From the repository's root, with the large pages that ``imagen_jax.train`` gives itself; the same command goes on after
it was cut, also with more minutes::

    export GLIBC_TUNABLES=glibc.malloc.hugetlb=1
    python -m tests.benchmarks.unet_efficiency FOLDER [--minutes=25] [--slice=2] [--tiny]
    python -m tests.benchmarks.unet_efficiency FOLDER --write       # table and plot also beside this file

Both networks (``unet_configs.py``) have equal parameters. First both draw pictures in turn, in one process, with random
parameters, which cost what trained ones do. Then both are trained on OpenMoji in turns of ``--slice`` minutes until
each has spent ``--minutes`` inside its steps; compiling, checkpoints and measuring do not count. After each turn the
averaged parameters' loss on held-out crops is measured, at the same times and with the same noise for both.

FOLDER gets the data, the two workdirs, ``results.json``, ``unet_efficiency.md`` and ``unet_efficiency.png``. To draw
anew, remove FOLDER/sampling.json.
"""

import argparse
import dataclasses
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from imagen_jax import train as training
from imagen_jax.array_types import Text
from imagen_jax.cascade.experiment import Experiment, read_experiment
from imagen_jax.cascade.stage import abstract_params, build_stage, with_settings
from imagen_jax.cascade.stage_inputs import keys_of_prompts, make_inputs
from imagen_jax.cascade.stage_loss import make_loss
from imagen_jax.cascade.stage_sampler import make_draw_stage
from imagen_jax.cascade.stage_task import make_stage_task
from imagen_jax.data.batches import make_batches
from imagen_jax.data.stored_images import load_split
from imagen_jax.diffusion.conditions import Conditions
from imagen_jax.errors import LeavingError, UserError
from imagen_jax.forecast.flops import count_operations
from imagen_jax.forecast.parameter_count import count_parameters, total_of
from imagen_jax.forecast.stage_programs import forward_program, training_program
from imagen_jax.runtime.exit_status import ExitStatus
from imagen_jax.runtime.main import enable_compilation_cache
from imagen_jax.runtime.preemption import ShouldLeave, watching_for_exit
from imagen_jax.tasks.stage_data import make_feed, make_transform, open_stage_data
from imagen_jax.training.checkpoints.store import CheckpointStore
from imagen_jax.training.compiled_training import make_training
from imagen_jax.training.monitoring.metrics import MetricsWriter, read_metrics
from tests.benchmarks.pages import write_page
from tests.benchmarks.unet_configs import HELD_OUT_IMAGES, NAMES, make_config
from tests.benchmarks.unet_report import describe_machine, plot, write_table

HELD_OUT = "held_out.jsonl"
TOLERANCE = 0.05
"""Of a slice: a mark that is so near counts as reached, for to go on costs compiling."""

Configs = dict[str, ConfigDict]


def count_all(configs: Configs) -> dict[str, dict[str, int]]:
    """Parameters, and operations an image of sampling's calls and of training's steps."""
    counts = {}
    for name, config in configs.items():
        stage = build_stage(config)
        forward = forward_program(stage)
        step = training_program(stage, read_experiment(config).training, config.stage.crop)
        counts[name] = {
            "parameters": total_of(count_parameters(abstract_params(stage))),
            "forward_operations": count_operations(forward.function, *forward.arguments),
            "training_operations": count_operations(step.function, *step.arguments),
            "resolution": config.stage.resolution,
            "crop": config.stage.crop,
            "batch_size": config.training.batch_size,
        }
    return counts


def make_drawing(config: ConfigDict, steps: int, pictures: int) -> Callable[[], object]:
    """Makes a function that draws pictures, from random small images and without captions."""
    stage = build_stage(config)
    draw = make_draw_stage(with_settings(stage, config.sampling.to_dict() | {"steps": steps}))
    random = np.random.default_rng(0)
    params = jax.tree.map(lambda of: jnp.asarray(random.normal(0, 0.05, of.shape), of.dtype), abstract_params(stage))
    text = Text(
        jnp.zeros((pictures, stage.text_length, stage.text_width)), jnp.ones((pictures, stage.text_length), bool)
    )
    size = config.stage.low_resolution
    small = jax.random.uniform(jax.random.key(1), (pictures, size, size, 3), minval=-1.0)
    keys = keys_of_prompts(0, [""] * pictures, range(pictures))
    inputs = make_inputs(Conditions(text=text), keys).with_low_resolution(small)
    return lambda: jax.block_until_ready(draw(params, inputs))


def measure_sampling(configs: Configs, steps: int, pictures: int, rounds: int) -> dict[str, Any]:
    """Draws in turn; seconds of each round, of the clock and of the processor."""
    ways = {name: make_drawing(config, steps, pictures) for name, config in configs.items()}
    first = {name: seconds_of(way)[0] for name, way in ways.items()}
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for number in range(rounds):
        for name in in_turn(number):
            seconds[name].append(seconds_of(ways[name]))
    return {
        "steps": steps,
        "pictures": pictures,
        "first_seconds": first,
        "seconds": {name: [clock for clock, _ in taken] for name, taken in seconds.items()},
        "processor_seconds": {name: [processor for _, processor in taken] for name, taken in seconds.items()},
    }


def seconds_of(act: Callable[[], object]) -> tuple[float, float]:
    """How long it takes, by the clock and of the processor."""
    clock, processor = time.perf_counter(), time.process_time()
    act()
    return time.perf_counter() - clock, time.process_time() - processor


def in_turn(number: int) -> tuple[str, ...]:
    """Who comes first takes turns too, so that what drifts meets both alike."""
    return NAMES if number % 2 == 0 else NAMES[::-1]


def list_marks(minutes: float, slice_minutes: float) -> list[float]:
    """Seconds inside steps at which both networks are measured; the last are those asked for."""
    count = max(1, round(minutes / slice_minutes))
    return [60 * minutes * (number + 1) / count for number in range(count)]


def train_for(config: ConfigDict, workdir: Path, seconds: float) -> None:
    """Trains until so many seconds after the loop began, as if it were asked to exit then: a checkpoint is written.

    Raises:
        LeavingError: it was asked to exit by a signal.
    """
    has_signal = False

    @contextmanager
    def listening_for_a_while() -> Iterator[ShouldLeave]:
        with watching_for_exit() as hears:
            end = time.perf_counter() + seconds

            def should_leave(number: int) -> bool:
                nonlocal has_signal
                has_signal = hears(number)
                return has_signal or time.perf_counter() >= end

            yield should_leave

    with mock.patch.object(training, "watching_for_exit", listening_for_a_while):
        try:
            training.train(config, workdir)
        except LeavingError:
            if has_signal:
                raise


def read_progress(workdir: Path) -> tuple[int, float]:
    """Steps of the newest checkpoint, and the seconds spent inside those steps."""
    with CheckpointStore(workdir / "checkpoints") as checkpoints:
        step = checkpoints.latest_step() or 0
    seconds = [line["useful_seconds"] for line in read_metrics(workdir) if line["step"] <= step]
    return step, seconds[-1] if seconds else 0.0


class HeldOutLoss:
    """The loss that a network is trained with, on images that it is not trained on.

    The crops, times, augmentation levels and noise follow from fixed keys alone: they are the same for both networks.
    No caption is left out.
    """

    def __init__(self, config: ConfigDict | Experiment) -> None:
        config = read_experiment(config)
        stage = build_stage(config)
        transform = make_transform(config.data, config.stage.crop, stage)
        data = open_stage_data(config, transform)
        made = make_training(make_stage_task(config, stage))
        feed = make_feed(stage, data.store, made.batch)
        size = config.training.batch_size
        batches = make_batches(load_split(data.folder, "validation"), transform, size, seed=0)
        self._batches = [feed(next(batches)) for _ in range(max(1, HELD_OUT_IMAGES // size))]
        self._params = made.state.ema_params
        quiet = dataclasses.replace(config.training, caption_dropout=0.0)
        self._loss = jax.jit(make_loss(stage, quiet))

    def __call__(self, workdir: Path) -> tuple[int, float]:
        """The newest checkpoint's step and its averaged parameters' loss."""
        with CheckpointStore(workdir / "checkpoints") as checkpoints:
            params, step = checkpoints.restore_ema(self._params)
        keys = jax.random.split(jax.random.key(1), len(self._batches))
        losses = [self._loss(params, batch, key) for batch, key in zip(self._batches, keys, strict=True)]
        return step, float(np.mean(jax.device_get(losses)))


def note_held_out(measure: HeldOutLoss, workdir: Path) -> None:
    """Measures the newest checkpoint, if that has not been done."""
    step, seconds = read_progress(workdir)
    if any(line["step"] == step for line in read_metrics(workdir, HELD_OUT)):
        return
    step, loss = measure(workdir)
    # Lines of later steps are of a turn that was cut.
    with MetricsWriter(workdir, step, name=HELD_OUT) as writer:
        writer.write(step, {"minutes": seconds / 60, "loss": loss})
    print(f"{workdir.name}: {step} steps, {seconds / 60:.2f} minutes in them, held-out loss {loss:.5f}", flush=True)


def train_in_turns(configs: Configs, folder: Path, marks: Sequence[float]) -> None:
    """Trains both to each mark, and measures them there."""
    measures: dict[str, HeldOutLoss] = {}
    for number, mark in enumerate(marks):
        for name in in_turn(number):
            workdir = folder / name
            while mark - read_progress(workdir)[1] > TOLERANCE * marks[0]:
                train_for(configs[name], workdir, mark - read_progress(workdir)[1])
            if name not in measures:
                measures[name] = HeldOutLoss(configs[name])
            note_held_out(measures[name], workdir)


def keep(path: Path, make: Callable[[], Any]) -> Any:
    """What a JSON file holds; made and written where it is not there."""
    if not path.exists():
        path.write_text(json.dumps(make(), indent=2) + "\n")
    return json.loads(path.read_text())


def compare(folder: Path, minutes: float, slice_minutes: float, sampling: tuple[int, int, int], tiny: bool) -> Path:
    """Measures whatever is not there yet; returns the folder with the results.

    Args:
        folder: of the results, of data and workdirs; a tiny comparison has one of its own in it.
        minutes: of each training.
        slice_minutes: of each turn.
        sampling: steps, pictures at once, rounds.
        tiny: whether only to show that all parts run.
    """
    folder = folder / "tiny" if tiny else folder
    folder.mkdir(parents=True, exist_ok=True)
    configs = {name: make_config(name, str(folder / "data"), tiny) for name in NAMES}
    counts = keep(folder / "counts.json", lambda: count_all(configs))
    drawn = keep(folder / "sampling.json", lambda: measure_sampling(configs, *sampling))
    train_in_turns(configs, folder, list_marks(minutes, slice_minutes))
    results = {
        "machine": describe_machine(),
        "minutes": minutes,
        "slice_minutes": slice_minutes,
        "counts": counts,
        "sampling": drawn,
        "held_out": {name: read_metrics(folder / name, HELD_OUT) for name in NAMES},
    }
    (folder / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    print(write_table(results, folder / "unet_efficiency.md"))
    plot(results, folder / "unet_efficiency.png")
    return folder


def main(arguments: Sequence[str] | None = None) -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--minutes", type=float, default=25.0)
    parser.add_argument("--slice", type=float, default=2.0)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--pictures", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args(arguments)
    if options.tiny and options.write:
        parser.error("numbers of the tiny size mean nothing: leave --write out")
    enable_compilation_cache()
    try:
        sampling = (options.steps, options.pictures, options.rounds)
        folder = compare(options.folder, options.minutes, options.slice, sampling, options.tiny)
    except LeavingError as error:
        print(f"asked to exit: {error}", file=sys.stderr)
        sys.exit(ExitStatus.PREEMPTED)
    except UserError as error:
        sys.exit(f"error: {error}")
    if options.write:
        write_page(Path(__file__).with_suffix(".md"), (folder / "unet_efficiency.md").read_text())
        shutil.copy(folder / "unet_efficiency.png", Path(__file__).with_suffix(".png"))


if __name__ == "__main__":
    main()
