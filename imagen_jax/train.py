"""Trains one stage of the cascade.

    python -m imagen_jax.train --config=configs/quickstart.py:base --workdir=runs/base [--config.training.steps=500]

Run again it continues where the newest checkpoint is; a finished run returns at once.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
from absl import flags
from jax.sharding import Sharding
from ml_collections import ConfigDict, config_flags

from imagen_jax.command_line import run_main
from imagen_jax.data.batches import make_batches
from imagen_jax.data.builder import prepare_data
from imagen_jax.data.device_feed import to_devices
from imagen_jax.data.splits import SPLITS
from imagen_jax.data.stored_images import captions_of, load_split
from imagen_jax.data.transforms import Transform, make_example, make_super_resolution_example
from imagen_jax.errors import UserError
from imagen_jax.previews import make_preview
from imagen_jax.sharding.mesh import make_mesh
from imagen_jax.sharding.placement import batch_placement, place_state
from imagen_jax.stages import Batch, Stage, abstract_batch, build_stage, initial_params, load_encoder, make_loss
from imagen_jax.storage.paths import Path, to_path
from imagen_jax.text.embedding_store import EmbeddingStore
from imagen_jax.training.checkpoints import CheckpointStore
from imagen_jax.training.loop import Batches, Hook, LoopClock, Moment, run_loop
from imagen_jax.training.metrics import MetricsWriter, Progress, peak_memory_gib
from imagen_jax.training.optimizer import make_optimizer
from imagen_jax.training.state import TrainState, initial_state
from imagen_jax.training.step import TrainStep, compile_train_step, make_train_step
from imagen_jax.training.workdir import keep_config

CONFIG = config_flags.DEFINE_config_file("config", None, "The experiment: a file of configs/, with :variant.")
WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the run: config, metrics, checkpoints, previews.", required=True
)
flags.mark_flag_as_required("config")


class Data(NamedTuple):
    """What a stage trains on.

    Attributes:
        folder: the prepared data set.
        batches: host batches of the training split.
        store: the embeddings of all its captions, and of the preview's prompts.
    """

    folder: Path
    batches: Batches
    store: EmbeddingStore


class Training(NamedTuple):
    """How a stage trains.

    Attributes:
        step: the step, not compiled yet.
        make_state: makes the first state, each array where it belongs.
        state: the state's shapes, each with its placement.
        batch: the batch's shapes, likewise.
    """

    step: TrainStep
    make_state: Callable[[], TrainState]
    state: TrainState
    batch: Batch


def main(arguments: Sequence[str]) -> None:
    """Trains ``--config`` in ``--workdir``."""
    if arguments[1:]:
        raise UserError(f"{arguments[1]!r} is no flag: config keys are set as in --config.training.steps=500")
    train(CONFIG.value, to_path(WORKDIR.value))


def train(config: ConfigDict, workdir: Path) -> TrainState:
    """Trains a stage to ``config.training.steps``, from its newest checkpoint if there is one.

    Returns:
        The state after the last step.

    Raises:
        UserError: whatever the user can mend: config, data, workdir, space.
    """
    stage = build_stage(config)
    training = make_training(config, stage)
    keep_config(workdir, config)
    with CheckpointStore(workdir / "checkpoints", keep=config.training.keep_checkpoints) as checkpoints:
        done = checkpoints.latest_step() or 0
        if done >= config.training.steps:
            print(f"{workdir} is trained already: {done} steps.")
            return checkpoints.restore(training.state)[0]
        data = prepare(config, stage)
        if done:
            print(f"{workdir} continues after step {done}.")
            state, data_state = checkpoints.restore(training.state)
            data.batches.set_state(data_state)
        else:
            state = training.make_state()
        clock = LoopClock()
        with MetricsWriter(workdir, first_step=done, tensorboard=config.training.tensorboard) as writer:
            with Progress(f"Training {workdir.name}", done, config.training.steps) as progress:
                hooks = [
                    Hook("log", config.training.log_every, make_logging(config, writer, progress, clock)),
                    Hook(
                        "preview",
                        config.training.preview_every,
                        make_preview(config, stage, data.folder, data.store, workdir),
                    ),
                    Hook("checkpoint", config.training.checkpoint_every, make_saving(checkpoints, writer)),
                ]
                return run_loop(
                    state,
                    compile_train_step(training.step, training.state, training.batch),
                    data.batches,
                    steps=config.training.steps,
                    put=make_feed(stage, data.store, training.batch),
                    hooks=hooks,
                    clock=clock,
                )


def prepare(config: ConfigDict, stage: Stage) -> Data:
    """Builds or opens the data set, embeds its captions once, and opens the training batches."""
    folder = prepare_data(
        config.data.source,
        config.data.resolution,
        config.data.data_dir,
        config.data.validation_fraction,
        **config.data.options.to_dict(),
    )
    captions = [caption for split in SPLITS for caption in captions_of(folder, split)]
    store = EmbeddingStore.build_or_open(
        folder / "embeddings", [*captions, *config.preview.prompts], load_encoder(config.text)
    )
    batches = make_batches(
        load_split(folder, "train"),
        make_transform(stage, config.stage.crop),
        config.training.batch_size,
        seed=config.seed,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        cache=config.data.cache,
        num_workers=config.data.num_workers,
    )
    return Data(folder, batches, store)


def make_transform(stage: Stage, crop: int | None) -> Transform:
    """What one stored example goes through on its way into a batch of this stage."""
    if stage.low_resolution is None:
        return make_example(stage.resolution)
    return make_super_resolution_example(stage.low_resolution, stage.resolution, crop)


def make_training(config: ConfigDict, stage: Stage) -> Training:
    """Makes all that training takes from the config but the data.

    Raises:
        UserError: a setting that only imported weights have.
    """
    if config.text.null != "zeros":
        raise UserError(f"training drops captions to zeros: set --config.text.null=zeros, not {config.text.null!r}")
    mesh = make_mesh(config.mesh.to_dict())
    optimizer = make_optimizer(**config.optimizer.to_dict())
    step = make_train_step(
        make_loss(stage, config.training),
        optimizer,
        ema_decay=config.training.ema_decay,
        ema_warm_up=config.training.ema_warm_up,
    )

    def make_state() -> TrainState:
        params_key, run_key = jax.random.split(jax.random.key(config.seed))
        return initial_state(initial_params(stage, params_key), optimizer, run_key)

    shapes = jax.eval_shape(make_state)
    placement = place_state(shapes, mesh)
    batch = abstract_batch(stage, config.training.batch_size, config.stage.crop)
    cut = batch_placement(mesh, config.training.batch_size)
    return Training(
        step,
        jax.jit(make_state, out_shardings=placement),
        jax.tree.map(place_shape, shapes, placement),
        jax.tree.map(lambda array: place_shape(array, cut), batch),
    )


def place_shape(array: jax.ShapeDtypeStruct, placement: Sharding) -> jax.ShapeDtypeStruct:
    """A shape with its placement."""
    return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=placement)


def make_feed(stage: Stage, store: EmbeddingStore, batch: Batch) -> Callable[[Mapping[str, Any]], Batch]:
    """Makes the way from a host batch to the devices: captions become embeddings, arrays become global arrays."""
    placement = batch.image.sharding

    def feed(examples: Mapping[str, Any]) -> Batch:
        text = store.lookup(list(examples["caption"]), stage.text_length)
        return to_devices(Batch(examples["image"], text, examples.get("low_res")), placement)

    return feed


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


def make_saving(checkpoints: CheckpointStore, writer: MetricsWriter) -> Callable[[int, Moment], None]:
    """Makes the hook that saves state and data position together, after the lines of metrics so far."""

    def save(number: int, moment: Moment) -> None:
        writer.flush()
        checkpoints.save(number, moment.state, moment.data_state)

    return save


if __name__ == "__main__":
    run_main(main)
