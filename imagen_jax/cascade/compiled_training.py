"""Builds a training job without its data: the step, and the shapes and shardings of its state and batch.

    config + devices -> mesh -> state and batch (shape and sharding of each array) + step -> lowered program

The devices need not be attached: ``train`` compiles the step for its own devices, and ``compile_check`` for those of a
pod that is not available.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float

from imagen_jax.array_types import RandomKey, Scalar
from imagen_jax.cascade.experiment import Experiment, read_experiment
from imagen_jax.cascade.stage import (
    Batch,
    Losses,
    Params,
    Stage,
    abstract_batch,
    initial_params,
    make_losses,
    parameter_axes,
)
from imagen_jax.config.reading import Given
from imagen_jax.diffusion.loss import sum_by_noise_level
from imagen_jax.errors import UserError
from imagen_jax.runtime.memory import release_memory
from imagen_jax.runtime.progress_bars import compiling
from imagen_jax.runtime.seeds import check_seed
from imagen_jax.sharding.mesh import make_mesh
from imagen_jax.sharding.placement import batch_placement, num_batch_shards, place_shapes, place_state
from imagen_jax.training.optimizer import make_optimizer, make_schedule
from imagen_jax.training.state import TrainState, initial_state
from imagen_jax.training.step import TrainStep, lower_train_step, make_train_step


class Training(NamedTuple):
    """A training job of a stage.

    Attributes:
        step: the training step, not compiled.
        first_state: makes the initial state, without shardings.
        state: shapes and shardings of the state's arrays.
        batch: shapes and shardings of the batch's arrays.
        mesh: the mesh of devices.
    """

    step: TrainStep
    first_state: Callable[[], TrainState]
    state: TrainState
    batch: Batch
    mesh: Mesh

    def lower(self) -> jax.stages.Lowered:
        """Lowers the step for the mesh."""
        return lower_train_step(self.step, self.state, self.batch, self.mesh)

    def compile(self) -> TrainStep:
        """Compiles the step for the mesh."""
        compiled = self.lower().compile()
        release_memory()
        return compiled

    def make_state(self) -> TrainState:
        """Makes the initial state, each array with its sharding, and frees the memory of the program that makes it."""
        placement = jax.tree.map(lambda array: array.sharding, self.state)
        with compiling("the program of the first parameters"):
            program = jax.jit(self.first_state, out_shardings=placement).lower().compile()
        state = program()
        release_memory()
        return state


def make_training(config: Given | Experiment, stage: Stage, devices: Sequence[jax.Device] | None = None) -> Training:
    """Makes a stage's training job from its config.

    Args:
        config: the stage's config.
        stage: the stage, built from the config.
        devices: devices of the mesh; all devices of all processes if None.

    Raises:
        UserError: the seed is out of range, ``text.null`` is one for imported weights only, the mesh does not match the
            devices, the batch or the parameters, or ``training.gradient_accumulation`` does not divide each device's
            examples.
    """
    config = read_experiment(config)
    if config.text.null != "zeros":
        raise UserError(
            f"training replaces dropped captions by zeros: set --config.text.null=zeros, not {config.text.null!r}"
        )
    seed = check_seed(config.seed, "config.seed")
    mesh = make_mesh(config.mesh.to_dict(), devices)
    optimizer = make_optimizer(**config.optimizer.to_dict())
    step = make_train_step(
        with_noise_levels(make_losses(stage, config.training)),
        optimizer,
        has_aux=True,
        ema_decay=config.training.ema_decay,
        ema_warm_up=config.training.ema_warm_up,
        gradient_accumulation=config.training.gradient_accumulation,
        schedule=make_schedule(config.optimizer.to_dict()),
    )

    def first_state() -> TrainState:
        params_key, run_key = jax.random.split(jax.random.key(seed))
        return initial_state(initial_params(stage, params_key), optimizer, run_key)

    shapes = jax.eval_shape(first_state)
    placement = place_state(shapes, parameter_axes(stage), mesh)
    batch = abstract_batch(stage, config.training.batch_size, config.stage.crop)
    batch_size, accumulation = config.training.batch_size, config.training.gradient_accumulation
    batch_sharding = batch_placement(mesh, batch_size)
    per_device = batch_size // num_batch_shards(mesh)
    if accumulation < 1 or per_device % accumulation:
        raise UserError(
            f"--config.training.gradient_accumulation={accumulation} does not divide the {per_device} images of each "
            f"device (batch_size {batch_size} over {num_batch_shards(mesh)} devices): set it to a divisor of "
            f"{per_device}"
        )
    return Training(
        step,
        first_state,
        place_shapes(shapes, placement),
        place_shapes(batch, batch_sharding),
        mesh,
    )


def with_noise_levels(
    losses: Losses,
) -> Callable[[Params, Batch, RandomKey], tuple[Scalar, Float[Array, "2 levels"]]]:
    """Makes the loss of the training step: the mean over the batch, and a stacked ``LossByNoiseLevel`` for the log."""

    def loss(params: Params, batch: Batch, key: RandomKey) -> tuple[Scalar, Float[Array, "2 levels"]]:
        of_examples, log_snr = losses(params, batch, key)
        # One array: with two, libtpu reports a program without temporaries, which no program is.
        return jnp.mean(of_examples), jnp.stack(sum_by_noise_level(of_examples, log_snr))

    return loss
