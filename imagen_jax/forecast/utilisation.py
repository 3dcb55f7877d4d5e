"""Model FLOP utilisation (MFU): the FLOPs of the loss and its gradient over what the chips could do at their peak."""

from collections.abc import Callable

import jax
from ml_collections import ConfigDict

from imagen_jax.forecast.chips import find_chip
from imagen_jax.forecast.stage_programs import count_training_operations


def make_mfu(config: ConfigDict) -> Callable[[float], float] | None:
    """Makes the function from steps per second to MFU in [0, 1]; None where the chips' peak is unknown, as of a CPU.

    Counting the FLOPs traces the step once and compiles nothing: seconds for the largest network.

    Args:
        config: the stage's config.
    """
    chip = find_chip(jax.devices()[0].device_kind)
    if chip is None:
        return None
    operations = config.training.batch_size * count_training_operations(config)
    peak = chip.flops_per_second * jax.device_count()
    return lambda steps_per_second: steps_per_second * operations / peak
