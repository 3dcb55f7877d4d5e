"""Describes a stage's computations as functions with the shapes of their arguments, without allocating arrays."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax

from imagen_jax.array_types import LowResolution, PerExample, Samples
from imagen_jax.cascade.experiment import Experiment, read_experiment
from imagen_jax.cascade.stage import (
    Batch,
    Params,
    Stage,
    abstract_batch,
    abstract_params,
    apply_network,
    build_stage,
    with_augmented,
)
from imagen_jax.cascade.stage_loss import make_loss
from imagen_jax.config.reading import Given
from imagen_jax.config.sections import TrainingConfig
from imagen_jax.diffusion.conditions import in_float32
from imagen_jax.forecast.flops import compiled_operations, count_operations


class Program(NamedTuple):
    """A function and the shapes of its arguments.

    Attributes:
        function: the computation.
        arguments: trees of shapes, one for each argument.
        batch_size: number of images that it processes.
        resolution: height and width of the images.
    """

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    batch_size: int
    resolution: int


class Operations(NamedTuple):
    """Floating-point operations per image, see ``measure_operations``.

    Attributes:
        counted: operations of matrix products and convolutions, see ``flops.count_operations``.
        compiled: operations of the whole compiled program, as XLA reports them.
    """

    counted: int
    compiled: int

    @property
    def ratio(self) -> float:
        """The compiled operations divided by the counted ones."""
        return self.compiled / self.counted


def forward_program(stage: Stage, batch_size: int = 1) -> Program:
    """Returns one forward pass of the network on whole images, as in a sampling step without guidance."""
    batch = abstract_batch(stage, batch_size)
    levels = jax.ShapeDtypeStruct((batch_size,), batch.clean.dtype)

    def forward(params: Params, batch: Batch, log_snr: PerExample) -> Samples:
        conditions = in_float32(batch.conditions)
        conditions = with_augmented(stage, conditions, lambda small: LowResolution(small, log_snr))
        return apply_network(stage, params, conditions)(batch.clean, log_snr)

    return Program(forward, (abstract_params(stage), batch, levels), batch_size, stage.resolution)


def training_program(stage: Stage, training: TrainingConfig, crop: int | None = None, batch_size: int = 1) -> Program:
    """Returns the loss and its gradient, without the optimizer; on crops if the stage trains on crops."""
    batch = abstract_batch(stage, batch_size, crop)
    key = jax.eval_shape(lambda: jax.random.key(0))
    gradient = jax.value_and_grad(make_loss(stage, training))
    return Program(gradient, (abstract_params(stage), batch, key), batch_size, batch.clean.shape[1])


def count_training_operations(config: Given | Experiment) -> int:
    """Counts the operations of one image in a training step, without recomputation, whatever ``network.remat`` is."""
    config = write_out(read_experiment(config))
    if "remat" in config.network.fields:
        config = config.with_network(remat="none")
    program = training_program(build_stage(config), config.training, config.stage.crop)
    return count_operations(program.function, *program.arguments)


def write_out(config: Experiment) -> Experiment:
    """Returns the config without ``network.scan``, because XLA counts only one iteration of a loop."""
    return config.with_network(scan=False) if "scan" in config.network.fields else config


def measure_operations(program: Program) -> Operations:
    """Counts a program's operations per image, both from its jaxpr and from XLA's report."""
    counted = count_operations(program.function, *program.arguments)
    compiled = compiled_operations(program.function, *program.arguments)
    return Operations(counted // program.batch_size, compiled // program.batch_size)


def format_operations(config: Given | Experiment, batch_size: int = 1) -> Iterator[str]:
    """Yields the rows of a table of operations per image, each as soon as its program is compiled.

    The programs use float32. A CPU that emulates bfloat16 by conversion would add the conversions to the count.
    """
    config = write_out(read_experiment(config)).with_network(dtype="float32")
    stage = build_stage(config)
    yield f"{'operations an image':>24} {'counted':>20} {'compiled':>20} {'ratio':>7}"
    programs = {
        "forward": forward_program(stage, batch_size),
        "training": training_program(stage, config.training, config.stage.crop, batch_size),
    }
    for name, program in programs.items():
        found = measure_operations(program)
        row = f"{name} at {program.resolution} px"
        yield f"{row:>24} {found.counted:>20,} {found.compiled:>20,} {found.ratio:>7.3f}"
