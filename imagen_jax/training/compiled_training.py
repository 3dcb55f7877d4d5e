"""Builds a training job without its data: the step, and the shapes and shardings of its state and batch.

    task + devices -> mesh -> state and batch (shape and sharding of each array) + step -> lowered program

The devices need not be attached: ``train`` compiles the step for its own devices, and ``compile_check`` for those of a
pod that is not available.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from absl import logging
from jax.sharding import Mesh

from imagen_jax.errors import UserError
from imagen_jax.runtime import processes
from imagen_jax.runtime.memory import release_memory
from imagen_jax.runtime.progress_bars import compiling
from imagen_jax.runtime.seeds import check_seed
from imagen_jax.sharding.axes import FSDP, TENSOR, unnamed_parameters
from imagen_jax.sharding.mesh import make_mesh
from imagen_jax.sharding.placement import batch_placement, num_batch_shards, place_shapes, place_state
from imagen_jax.training.optimizer import make_optimizer, make_schedule
from imagen_jax.training.state import TrainState, initial_state
from imagen_jax.training.step import TrainStep, lower_train_step, make_train_step
from imagen_jax.training.task import Task


def warn_of_unnamed(axes: Any, mesh: Mesh) -> None:
    """Logs one warning if parameters without named axes are sharded over several devices."""
    unnamed = unnamed_parameters(axes)
    if unnamed and mesh.shape[FSDP] * mesh.shape[TENSOR] > 1 and processes.is_process_zero():
        logging.warning(
            "%d parameters name no axes, such as %s: each is sharded along its largest axis that the devices divide "
            "(sharding.axes.with_logical_axes names axes)",
            len(unnamed),
            unnamed[0],
        )


class Training(NamedTuple):
    """A training job.

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
    batch: Any
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


def make_training(task: Task, devices: Sequence[jax.Device] | None = None) -> Training:
    """Makes the training job of a task.

    Args:
        task: what is trained.
        devices: devices of the mesh; all devices of all processes if None.

    Raises:
        UserError: the seed is out of range, the mesh does not match the devices, the batch or the parameters, or
            ``training.gradient_accumulation`` does not divide each device's examples.
    """
    seed = check_seed(task.seed, "config.seed")
    mesh = make_mesh(task.mesh.to_dict(), devices)
    optimizer = make_optimizer(**task.optimizer.to_dict())
    step = make_train_step(
        task.loss,
        optimizer,
        has_aux=True,
        ema_decay=task.training.ema_decay,
        ema_warm_up=task.training.ema_warm_up,
        gradient_accumulation=task.gradient_accumulation,
        schedule=make_schedule(task.optimizer.to_dict()),
        differentiate=task.differentiate,
        after_update=task.after_update,
    )

    def first_state() -> TrainState:
        params_key, run_key = jax.random.split(jax.random.key(seed))
        return initial_state(task.initial_params(params_key), optimizer, run_key)

    shapes = jax.eval_shape(first_state)
    axes = task.parameter_axes()
    warn_of_unnamed(axes, mesh)
    placement = place_state(shapes, axes, mesh)
    batch_size, accumulation = task.training.batch_size, task.gradient_accumulation
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
        place_shapes(task.batch, batch_sharding),
        mesh,
    )
