"""What a stage computes, as functions and the shapes they take: nothing is allocated, however large the network."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from imagen_jax.array_types import Images, LowResolution, PerExample
from imagen_jax.cascade.stage import (
    Batch,
    Params,
    Stage,
    abstract_batch,
    abstract_params,
    apply_network,
    build_stage,
    in_float32,
    make_loss,
)
from imagen_jax.forecast.flops import compiled_operations, count_operations


class Program(NamedTuple):
    """A function and the shapes of its arguments.

    Attributes:
        function: what is computed.
        arguments: trees of shapes.
        batch_size: images that it works on.
        resolution: their height and width.
    """

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    batch_size: int
    resolution: int


class Operations(NamedTuple):
    """Floating-point operations an image, see ``operations``.

    Attributes:
        counted: of matrix products and convolutions.
        compiled: of the whole program, as XLA reports them.
    """

    counted: int
    compiled: int

    @property
    def ratio(self) -> float:
        """Compiled over counted."""
        return self.compiled / self.counted


def forward_program(stage: Stage, batch_size: int = 1) -> Program:
    """The network once, on whole images, as in a step of sampling without guidance."""
    batch = abstract_batch(stage, batch_size)
    levels = jax.ShapeDtypeStruct((batch_size,), batch.image.dtype)

    def forward(params: Params, batch: Batch, log_snr: PerExample) -> Images:
        low = None if batch.low_resolution is None else LowResolution(batch.low_resolution, log_snr)
        return apply_network(stage, params, in_float32(batch.text), low)(batch.image, log_snr)

    return Program(forward, (abstract_params(stage), batch, levels), batch_size, stage.resolution)


def training_program(stage: Stage, config: ConfigDict, batch_size: int = 1) -> Program:
    """The loss and its gradient, on crops where the stage trains on crops; without the optimizer."""
    batch = abstract_batch(stage, batch_size, config.stage.crop)
    key = jax.eval_shape(lambda: jax.random.key(0))
    gradient = jax.value_and_grad(make_loss(stage, config.training))
    return Program(gradient, (abstract_params(stage), batch, key), batch_size, batch.image.shape[1])


def count_training_operations(config: ConfigDict) -> int:
    """Counted operations of one image in a training step, none of them done twice, whatever ``network.remat`` says."""
    config = write_out(config)
    if "remat" in config.network:
        config.network.remat = "none"
    program = training_program(build_stage(config), config)
    return count_operations(program.function, *program.arguments)


def write_out(config: ConfigDict) -> ConfigDict:
    """A copy whose network is no loop: of a loop XLA counts one turn."""
    config = config.copy_and_resolve_references()
    if "scan" in config.network:
        config.network.scan = False
    return config


def measure_operations(program: Program) -> Operations:
    """Counts a program's operations both ways, an image."""
    counted = count_operations(program.function, *program.arguments)
    compiled = compiled_operations(program.function, *program.arguments)
    return Operations(counted // program.batch_size, compiled // program.batch_size)


def format_operations(config: ConfigDict, batch_size: int = 1) -> Iterator[str]:
    """The rows of a table of operations an image, each as soon as its program is compiled.

    In float32, since a processor that computes bfloat16 by converting would have the conversions counted too.
    """
    config = write_out(config)
    config.network.dtype = "float32"
    stage = build_stage(config)
    yield f"{'operations an image':>24} {'counted':>20} {'compiled':>20} {'ratio':>7}"
    programs = {"forward": forward_program(stage, batch_size), "training": training_program(stage, config, batch_size)}
    for name, program in programs.items():
        found = measure_operations(program)
        row = f"{name} at {program.resolution} px"
        yield f"{row:>24} {found.counted:>20,} {found.compiled:>20,} {found.ratio:>7.3f}"
