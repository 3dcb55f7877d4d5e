"""Lowers the programs of a job for any devices, attached or not, without allocating arrays.

config + devices -> mesh -> shapes with their shardings -> lowered program, and the model's own operations
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from imagen_jax.cascade.experiment import Experiment, read_experiment
from imagen_jax.cascade.stage import Stage, abstract_batch, abstract_params, build_stage, parameter_axes
from imagen_jax.cascade.stage_inputs import Inputs, make_inputs
from imagen_jax.cascade.stage_sampler import make_whole_program
from imagen_jax.cascade.stage_task import make_stage_task
from imagen_jax.config.reading import Given
from imagen_jax.diffusion.conditions import in_float32
from imagen_jax.encoders.t5 import SIZES, T5Encoder
from imagen_jax.errors import UserError, lookup
from imagen_jax.forecast.flops import count_operations
from imagen_jax.forecast.stage_programs import count_training_operations
from imagen_jax.sharding.axes import axes_of, remove_logical_axes
from imagen_jax.sharding.mesh import make_mesh
from imagen_jax.sharding.placement import batch_placement, place_shapes, place_state
from imagen_jax.training.compiled_training import make_training
from imagen_jax.training.task import Task


class Job(NamedTuple):
    """A program that is ready to compile, with facts about it.

    Attributes:
        name: description of the program.
        lowered: the lowered program.
        mesh: mesh of the devices that it runs on.
        batch: number of units that it processes.
        unit: unit of the batch, "image" or "token".
        model_flops: operations of the model for the whole batch: matrix products and convolutions, without
            recomputation.
        state_bytes: total unsharded size in bytes of the training state or the parameters, which are sharded over
            ``fsdp``.
        trains: whether the program is a training step.
    """

    name: str
    lowered: jax.stages.Lowered
    mesh: Mesh
    batch: int
    unit: str
    model_flops: int
    state_bytes: int
    trains: bool = False


def training_job(config: Given | Experiment, devices: Sequence[jax.Device]) -> Job:
    """Lowers the training step of a config, with its batch size.

    Raises:
        UserError: the config is invalid, or its mesh does not fit the devices, the batch or the parameters.
    """
    config = read_experiment(config)
    operations = config.training.batch_size * count_training_operations(config)
    return task_job(make_stage_task(config), devices, operations)


def task_job(task: Task, devices: Sequence[jax.Device], model_flops: int) -> Job:
    """Lowers the training step of any task.

    Args:
        task: what is trained; its data are not opened.
        devices: the devices of the mesh.
        model_flops: operations of the loss of a batch and its gradient, without recomputation.

    Raises:
        UserError: the mesh does not fit the devices, the batch or the parameters.
    """
    training = make_training(task, devices)
    batch, size = task.training.batch_size, bytes_of(training.state)
    return Job("training step", training.lower(), training.mesh, batch, "image", model_flops, size, trains=True)


def sampling_job(config: Given | Experiment, devices: Sequence[jax.Device], batch: int) -> Job:
    """Lowers the whole sampler of a config: all steps, from noise to images.

    Args:
        config: config of the stage.
        devices: devices of the pod.
        batch: number of images sampled at once.

    Raises:
        UserError: the config is invalid, or its mesh does not fit the devices, the batch or the parameters.
    """
    config = read_experiment(config)
    stage = build_stage(config)
    mesh = make_mesh(config.mesh.to_dict(), devices)
    program: Any = make_whole_program(stage)
    shapes = abstract_params(stage)
    params = place_shapes(shapes, place_state(shapes, parameter_axes(stage), mesh))
    inputs = place_shapes(sampling_inputs(stage, batch), batch_placement(mesh, batch))
    with jax.set_mesh(mesh):
        lowered = program.lower(params, inputs)
    operations = count_operations(program, params, sampling_inputs(stage, 1))
    return Job(
        f"sampler, {stage.settings.steps} steps of {stage.settings.rule.name},",
        lowered,
        mesh,
        batch,
        "image",
        batch * operations,
        bytes_of(params),
    )


def sampling_inputs(stage: Stage, batch: int) -> Inputs:
    """Returns the shapes of a sampler's inputs, without the parameters."""
    conditions = abstract_batch(stage, batch).conditions
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), batch))
    return jax.eval_shape(lambda conditions, keys: make_inputs(in_float32(conditions), keys), conditions, keys)


def embedding_job(size: str, devices: Sequence[jax.Device], batch: int, tokens: int) -> Job:
    """Lowers the T5 encoder for a batch of captions, in bfloat16, with its weights sharded over all devices.

    Args:
        size: key of ``t5.SIZES``.
        devices: devices of the pod.
        batch: number of captions, at least 1.
        tokens: number of tokens of each caption, at least 1.

    Raises:
        UserError: the size is unknown, a number is below 1, or the batch or the weights can't be sharded over the
            devices.
    """
    encoder = T5Encoder(lookup(SIZES, size, "size of T5"), jnp.bfloat16)
    if batch < 1 or tokens < 1:
        raise UserError(f"there is nothing to encode in {batch} captions of {tokens} tokens: set both to 1 or more")
    mesh = make_mesh({"fsdp": len(devices)}, devices)

    def captions(count: int) -> tuple[jax.ShapeDtypeStruct, ...]:
        return tuple(jax.ShapeDtypeStruct((count, tokens), kind) for kind in (jnp.int32, jnp.bool_))

    def encode(params: Any, ids: Any, mask: Any) -> Any:
        return encoder.apply({"params": params}, ids, mask)

    labelled = jax.eval_shape(
        lambda: encoder.init(jax.random.key(0), *jax.tree.map(jnp.zeros_like, captions(1)))["params"]
    )
    shapes = jax.tree.map(lambda array: jax.ShapeDtypeStruct(array.shape, jnp.bfloat16), remove_logical_axes(labelled))
    params = place_shapes(shapes, place_state(shapes, axes_of(labelled), mesh))
    sharding = batch_placement(mesh, batch)
    with jax.set_mesh(mesh):
        lowered = jax.jit(encode, out_shardings=sharding).lower(params, *place_shapes(captions(batch), sharding))
    operations = batch * count_operations(encode, shapes, *captions(1))
    return Job(f"T5 {size} encoder", lowered, mesh, batch * tokens, "token", operations, bytes_of(params))


def bytes_of(tree: Any) -> int:
    """Returns the total bytes of all arrays in a tree of shapes, without PRNG keys."""
    arrays = [leaf for leaf in jax.tree.leaves(tree) if not jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.extended)]
    return sum(leaf.size * leaf.dtype.itemsize for leaf in arrays)
