"""Training of one stage: the function ``train``, for notebooks and programs; its command is in ``commands``.

config, workdir -> data, embeddings -> step -> loop (checkpoints, previews, metrics) -> TrainingResult
"""

import contextlib
import os
import runpy
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple, cast

if __name__ == "__main__":
    # As ``python -m imagen_jax.train``, the command's older name. A module that defines flags can't be imported into
    # programs with flags of their own, so the command is another module.
    runpy.run_module("imagen_jax.commands.train", run_name="__main__", alter_sys=True)

import jax

from imagen_jax.array_types import Text
from imagen_jax.cascade.compiled_training import Training, make_training
from imagen_jax.cascade.experiment import Experiment, read_experiment
from imagen_jax.cascade.previews import choose_prompts, is_drawn, make_preview, recall_prompts, with_prompts
from imagen_jax.cascade.stage import Batch, Stage, build_stage, load_encoder
from imagen_jax.config.reading import Given
from imagen_jax.config.sections import DataConfig
from imagen_jax.data.batches import Batches, Mixture, check_batch_size, make_batches
from imagen_jax.data.data_sets import DataSets, open_data_sets
from imagen_jax.data.device_feed import to_devices, to_devices_padded
from imagen_jax.data.preparation.builder import PREPARED
from imagen_jax.data.transforms import Transform, make_example, make_super_resolution_example
from imagen_jax.encoders.data_set_embeddings import open_store
from imagen_jax.encoders.embedding_store import ComputedEmbeddings, Embeddings, EmbeddingStore
from imagen_jax.errors import UserError, lookup
from imagen_jax.evaluation.protocols.during_training import TrainingEvaluation, is_measured
from imagen_jax.forecast.utilisation import make_mfu
from imagen_jax.runtime import processes
from imagen_jax.runtime.config_files import load_config
from imagen_jax.runtime.preemption import explain_exit, watching_for_exit
from imagen_jax.runtime.progress_bars import announcing, compiling
from imagen_jax.storage.paths import Path, to_path
from imagen_jax.training.checkpoints.saving import Saving, make_check
from imagen_jax.training.checkpoints.store import CheckpointStore
from imagen_jax.training.folder_kinds import check_trainable
from imagen_jax.training.loop import Hook, LoopClock, StepInfo, run_loop
from imagen_jax.training.monitoring.append_file import print_line, warn_on_write_error
from imagen_jax.training.monitoring.logging import open_log
from imagen_jax.training.monitoring.metrics import check_tensorboard
from imagen_jax.training.monitoring.nonfinite import NonfiniteGuard
from imagen_jax.training.monitoring.watchdog import (
    NOT_WATCHED,
    Watch,
    Watchdog,
    check_traced,
    make_heartbeat_hook,
    trace_steps,
)
from imagen_jax.training.optimizer import check_schedule, make_schedule
from imagen_jax.training.result import TrainingResult
from imagen_jax.training.state import TrainState
from imagen_jax.training.step import TrainStep
from imagen_jax.training.workdir import PATHS, check_continues, explain_unused, flatten, keep_config, make_workdir

PAGE = "page"
"""Name of the hook that writes the run's page."""

EMBEDDINGS = {"stored": EmbeddingStore, "computed": ComputedEmbeddings}
"""Allowed values of ``text.embeddings``.

stored: all captions are embedded before training, unless they already are, and read batch by batch.
computed: the captions of each batch are embedded when it arrives; the encoder stays in memory.
"""


class Data(NamedTuple):
    """The training data of a stage.

    Attributes:
        folder: data set of the previews; the first of several.
        batches: host batches of the training split.
        store: embeddings of all captions, and of the preview's prompts.
        fingerprints: fingerprints of data and text encoder, see ``training.workdir``.
        prompts: the prompts of a base's previews.
    """

    folder: Path
    batches: Batches
    store: Embeddings
    fingerprints: dict[str, str]
    prompts: tuple[str, ...]


class Run(NamedTuple):
    """A training that is about to start or to resume.

    Attributes:
        config: config of the stage.
        workdir: folder of the run.
        stage: stage built from the config.
        training: step and array shapes of the stage.
        data: training data, at the position to continue from.
        checkpoints: checkpoints of the run.
        guard: hook that checks the metrics of every step.
        done: step to continue from.
        check_workdir: raises ``UserError`` if the workdir is gone or belongs to another run.
    """

    config: Experiment
    workdir: Path
    stage: Stage
    training: Training
    data: Data
    checkpoints: CheckpointStore
    guard: NonfiniteGuard
    done: int
    check_workdir: Callable[[], None]


def train(
    config: str | os.PathLike[str] | Given | Experiment, workdir: str | Path, watch: Watch = NOT_WATCHED
) -> TrainingResult:
    """Trains a stage to ``config.training.steps``, from its newest checkpoint if there is one.

    Args:
        config: a config, see ``load_config``, or the name of a bundled config or of a config file, with its variant.
        workdir: folder of the run; the same call resumes it.
        watch: settings of profiler and watchdog.

    Raises:
        UserError: the config, data, workdir or disk space needs fixing by the user.
        LeavingError: SIGTERM was received, or Ctrl-C in a command; a checkpoint is written.
        KeyboardInterrupt: Ctrl-C was received. After the first step, a checkpoint is written, unless it came twice.
    """
    if isinstance(config, str | os.PathLike):
        config = load_config(config)
    workdir = to_path(workdir)
    return TrainingResult(workdir, int(train_to_end(config, workdir, watch).step))


def train_to_end(config: Given | Experiment, workdir: Path, watch: Watch = NOT_WATCHED) -> TrainState:
    """Trains a stage to ``config.training.steps``, from its newest checkpoint if there is one.

    Args:
        config: config of the stage and its training.
        workdir: folder of the run.
        watch: settings of profiler and watchdog.

    Returns:
        The state after the last step.

    Raises:
        UserError: the config, data, workdir or disk space needs fixing by the user.
        LeavingError: SIGTERM was received, or Ctrl-C in a command; a checkpoint is written.
        KeyboardInterrupt: Ctrl-C was received, and in a program a checkpoint is written.
    """
    config = read_experiment(config)
    check_traced(watch.traced, 0, config.training.steps)
    if config.training.tensorboard:
        check_tensorboard()
    stage = build_stage(config)
    training = make_training(config, stage)
    transform = make_transform(config.data, config.stage.crop, stage)
    share_workdir(workdir, config)
    keep, keep_every = config.training.keep_checkpoints, config.training.keep_every
    with (
        announcing() if processes.is_process_zero() else contextlib.nullcontext(),
        processes.lock_on_process_zero(workdir, "--workdir") as check_workdir,
        CheckpointStore(workdir / "checkpoints", keep, keep_every) as checkpoints,
    ):
        done = checkpoints.latest_step_of_all() or 0
        if done >= config.training.steps and not find_missing_previews(config, workdir, done):
            state, _ = checkpoints.restore(training.state)
            # If the newest checkpoint is damaged, an earlier one was read.
            if int(state.step) >= config.training.steps:
                print_once(
                    f"{workdir} is trained already: {int(state.step)} steps.{explain_unused(workdir, config.to_dict())}"
                )
                return state
            del state
        check_traced(watch.traced, done, config.training.steps)
        if done < config.training.steps:
            check_schedule(make_schedule(config.optimizer.to_dict()), config.training.steps)
        data = prepare(processes.run_on_process_zero_first(partial(recall_prompts, config, workdir)), transform)
        config = with_prompts(config, data.prompts)
        if done:
            state, data_state = checkpoints.restore(training.state)
            done = int(state.step)
            print_once(f"{workdir} continues after step {done} of {config.training.steps}.")
            data.batches.set_state(data_state)
        else:
            state, data_state = training.make_state(), {}
        guard = NonfiniteGuard(config.training, workdir, done, checkpoints, training.state)
        guard.set_state(data_state)
        if processes.is_process_zero():
            keep_config(workdir, config.to_dict(), data.fingerprints)
        state = run(Run(config, workdir, stage, training, data, checkpoints, guard, done, check_workdir), state, watch)
    reached = int(state.step)
    if reached < config.training.steps:
        raise explain_exit(reached)
    return state


def run(this: Run, state: TrainState, watch: Watch) -> TrainState:
    """Compiles the step and trains to the last one, or until SIGTERM or Ctrl-C; then everything is saved."""
    config, steps, data = this.config, this.config.training.steps, this.data
    clock = LoopClock()
    shown = make_preview_hooks(config, this.stage, data, this.workdir)
    owed = find_missing_previews(config, this.workdir, this.done)
    for hook in shown:
        if hook.name in owed or (owed and hook.name == PAGE):
            hook.act(this.done, StepInfo(state, {}, {}, clock))
    if this.done >= steps:
        return state

    def of_data(place: dict[str, Any]) -> dict[str, float]:
        return data.batches.metrics(place) | this.guard.metrics

    mfu = make_mfu(config) if processes.is_process_zero() else None
    with open_log(config.training, this.workdir, this.done, clock, of_data, mfu) as logging:
        with compiling("the training step"):
            step: TrainStep = this.training.compile()
        if processes.is_process_zero():
            step = trace_steps(step, watch.traced, this.done, steps, this.workdir / "profile")
        saving = Saving(this.checkpoints, config.training.checkpoint_every, steps, this.guard.get_state)
        with (
            Watchdog(watch.hang_seconds, watch.end_when_hung, this.done) as watchdog,
            watching_for_exit() as should_leave,
        ):
            check, note = make_check(this.check_workdir), make_heartbeat_hook(watchdog)
            # On CPUs the first collective times out after half a minute, so all processes start it together.
            processes.barrier("the step is compiled")
            state = run_loop(
                state,
                step,
                this.guard.watch(data.batches),
                steps=steps,
                put=make_feed(this.stage, data.store, this.training.batch),
                # Checkpoints are saved before the slow previews, so that a run stopped during a preview loses nothing.
                hooks=[check, note, Hook("loop", 1, this.guard), *logging, saving.hook(), *shown, note],
                clock=clock,
                should_leave=should_leave,
            )
            # Wait inside the block, where a first signal does not end the process.
            this.checkpoints.wait()
            return state


def print_once(sentence: str) -> None:
    """Prints a sentence on process 0 only."""
    if processes.is_process_zero():
        # At once, for standard output may be a pipe, and the lines that follow are those of standard error.
        print(sentence, flush=True)


def share_workdir(workdir: Path, config: Experiment) -> None:
    """Checks that all processes train the same config in the same usable folder, and creates the folder.

    Raises:
        UserError: configs or folders differ, or the folder belongs to another run or contains something else.
    """
    here = {f"config.{key}": value for key, value in flatten(config.to_dict()) if key not in PATHS}
    processes.check_agreement({**here, "the number of local devices": jax.local_device_count()})
    if processes.is_process_zero():
        check_trainable(workdir, "stage", config.data.to_dict())
        check_continues(workdir, config.to_dict())
        make_workdir(workdir)
    processes.check_shared(workdir)


def prepare(config: Experiment, transform: Transform) -> Data:
    """Builds or opens the data set and the embeddings of its captions, and opens the training batches.

    If the config's previews need prompts, it chooses them from the captions.
    """

    def build_or_open() -> tuple[DataSets, Mixture, Embeddings, str, tuple[str, ...]]:
        data = config.data
        # First, for the weights may be missing, and to read the images may take long.
        encoder = load_encoder(config.text)
        opened = open_data_sets(
            data.source,
            data.resolution,
            data.data_dir,
            data.validation_fraction,
            dict(data.options),
            data.weights,
        )
        # make_batches checks it too, but only after all captions are embedded.
        images = opened.load("train")
        check_batch_size(config.training.batch_size, jax.process_count(), len(images))
        prompts = choose_prompts(config, opened.folders[0])
        if lookup(EMBEDDINGS, config.text.embeddings, "text.embeddings") is ComputedEmbeddings:
            return opened, images, ComputedEmbeddings(encoder), encoder.name, prompts
        return opened, images, open_store(opened.folders, encoder, prompts), encoder.name, prompts

    data_sets, images, store, encoder_name, prompts = processes.run_on_process_zero_first(build_or_open)
    processes.check_agreement({"the data set": data_sets.name, "the embeddings": store.name})
    batches = make_batches(
        images,
        transform,
        config.training.batch_size,
        seed=config.seed,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        cache=config.data.cache,
        mirror=config.data.mirror,
        num_workers=config.data.num_workers,
        # Only for prepared data: a generated data set's folder is named for its content, and older checkpoints lack it.
        data=data_sets.name if config.data.source == PREPARED else None,
        max_bad_fraction=config.data.max_bad_fraction,
    )
    fingerprints = {"data_set": data_sets.fingerprint, "text_encoder": encoder_name}
    return Data(data_sets.folders[0], batches, store, fingerprints, prompts)


def make_transform(data: DataConfig, crop: int | None, stage: Stage) -> Transform:
    """Makes the transform from a stored example to an example of a batch of this stage.

    Args:
        data: the training images.
        crop: height and width of a super-resolution stage's training crops; None for whole images.
        stage: the stage.

    Raises:
        UserError: ``data.crop`` is unknown or useless for a source of square images, or sizes do not fit.
    """
    square = data.crop
    if stage.low_resolution is None:
        transform = make_example(stage.resolution, square)
    else:
        transform = make_super_resolution_example(stage.low_resolution, stage.resolution, crop, square)
    if square != "centre" and data.source != PREPARED:
        raise UserError(
            f"data.crop={square!r} finds nothing to cut, for data.source={data.source!r} stores squares: set "
            f"data.crop='centre', or prepare the images (imagen_jax prepare_data) and set data.source={PREPARED!r}"
        )
    return transform


def make_feed(stage: Stage, store: Embeddings, batch: Batch) -> Callable[[Mapping[str, Any]], Batch]:
    """Makes the function that puts host batches on devices: captions as embeddings, arrays as global arrays."""
    placement = batch.image.sharding

    def feed(examples: Mapping[str, Any]) -> Batch:
        text = store.lookup(list(examples["caption"]), stage.text_length)
        on_devices: Any = map(to_devices_padded, *cast(Any, (text, batch.text)))
        images = to_devices({name: examples[name] for name in ("image", "low_res") if name in examples}, placement)
        return Batch(images["image"], Text(*on_devices), images.get("low_res"))

    return feed


def make_preview_hooks(config: Experiment, stage: Stage, data: Data, workdir: Path) -> list[Hook]:
    """Makes the slow hooks: previews, an evaluation if the config enables it, and the run's page after them."""

    def forgiving(name: str, every: int, act: Callable[[int, StepInfo], None]) -> Hook:
        def show(number: int, moment: StepInfo) -> None:
            with warn_on_write_error(f"the {name} of step {number}"):
                act(number, moment)

        return Hook(name, every, show, when_leaving=False)

    def write_page(number: int, info: StepInfo) -> None:
        # Imported here, because matplotlib is slow to import and no step needs it.
        from imagen_jax.evaluation.reports.run_page import write_run_page

        try:
            write_run_page(workdir)
        except Exception as error:
            # Whatever is wrong with a page, it is not worth a training.
            print_line(f"warning: the page of the run can't be written: {error!r}. Training continues")

    there = (config.seed, stage, data.folder, data.store, workdir)
    hooks = []
    if config.training.preview_every:
        preview = make_preview(config.sampling, config.preview.prompts, *there)
        hooks.append(forgiving("preview", config.training.preview_every, preview))
    if config.training.evaluate_every:
        evaluation = TrainingEvaluation(config.sampling, config.preview, *there)
        hooks.append(forgiving("evaluation", config.training.evaluate_every, evaluation))
    if processes.is_process_zero():
        every = config.training.preview_every or config.training.checkpoint_every
        hooks.append(Hook(PAGE, every, write_page, when_leaving=False))
    return hooks


def find_missing_previews(config: Experiment, workdir: Path, done: int) -> tuple[str, ...]:
    """Returns the names of hooks that were due at step ``done`` but whose output is missing."""
    there = {
        "preview": (config.training.preview_every, is_drawn),
        "evaluation": (config.training.evaluate_every, is_measured),
    }
    owed = [
        name
        for name, (every, is_there) in there.items()
        if done and every and (done % every == 0 or done == config.training.steps) and not is_there(workdir, done)
    ]
    return tuple(processes.broadcast(owed))
