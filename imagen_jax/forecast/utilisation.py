"""Computes model FLOP utilisation (MFU): the FLOPs of the loss and its gradient, divided by the chips' peak."""

from collections.abc import Callable

import jax

from imagen_jax.cascade.experiment import Experiment, read_experiment
from imagen_jax.config.reading import Given
from imagen_jax.forecast.chips import find_chip
from imagen_jax.forecast.stage_programs import count_training_operations


def make_mfu(config: Given | Experiment) -> Callable[[float], float] | None:
    """Returns a function from steps per second to MFU in [0, 1]; None if the chips' peak is unknown, as for CPUs.

    The FLOPs are counted by tracing the loss and its gradient once, without compiling. This takes seconds for the
    largest network.

    Args:
        config: config of the stage.
    """
    chip = find_chip(jax.devices()[0].device_kind)
    if chip is None:
        return None
    config = read_experiment(config)
    operations = config.training.batch_size * count_training_operations(config)
    peak = chip.flops_per_second * jax.device_count()
    return lambda steps_per_second: steps_per_second * operations / peak
