"""Imagen's optimizers (appendix F.1), Adafactor for the base and Adam for super-resolution; AdamW and Muon."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import optax
from jaxtyping import Int
from optax.contrib import MuonDimensionNumbers

from imagen_jax.errors import UserError, check_names, lookup


def adam(
    learning_rate: optax.Schedule, b1: float = 0.9, b2: float = 0.999, epsilon: float = 1e-8
) -> optax.GradientTransformation:
    """Makes Adam with the paper's constants."""
    return optax.adam(learning_rate, b1=b1, b2=b2, eps=epsilon)


def adamw(
    learning_rate: optax.Schedule,
    b1: float = 0.9,
    b2: float = 0.999,
    epsilon: float = 1e-8,
    weight_decay: float = 0.01,
) -> optax.GradientTransformation:
    """Makes AdamW: Adam with decoupled weight decay (Loshchilov & Hutter 2019), for CLIP and the priors of unCLIP.

    Each update also subtracts ``learning_rate · weight_decay`` times the parameter, of those that ``decays`` names.
    """
    return optax.adamw(learning_rate, b1=b1, b2=b2, eps=epsilon, weight_decay=weight_decay, mask=decays)


DECAYED = ("kernel", "embedding")


def decays(params: Any) -> Any:
    """Returns which parameters weight decay changes: kernels and tables of token embeddings.

    CLIP decays "all weights that are not gains or biases" (Radford et al. 2021, section 2.5). Positions, class tokens
    and the temperature, which are neither, do not decay here.
    """
    return jax.tree_util.tree_map_with_path(lambda path, array: path[-1].key in DECAYED and array.ndim > 1, params)


def adafactor(learning_rate: optax.Schedule) -> optax.GradientTransformation:
    """Makes Adafactor with optax's defaults and no weight decay, as in the paper."""
    return optax.adafactor(learning_rate)


LAST_LAYERS = ("out", "conv_out")


def kernel_dimensions(params: Any) -> Any:
    """Returns the input and output axes of each kernel for Muon, and None for parameters that Adam updates.

    Adam updates vectors and the network's last layer, as Muon's authors advise. Dense layers with heads, ``(inputs,
    heads, head_channels)``, count as one matrix.
    """

    def dimensions(path: Any, array: jax.Array) -> MuonDimensionNumbers | None:
        if path[-1].key != "kernel" or path[0].key in LAST_LAYERS:
            return None
        inputs = (0, 1, 2) if array.ndim == 4 else (0,)
        return MuonDimensionNumbers(reduction_axis=inputs, output_axis=tuple(range(len(inputs), array.ndim)))

    return jax.tree_util.tree_map_with_path(dimensions, params)


def muon(
    learning_rate: optax.Schedule, adam_ratio: float = 0.1, b2: float = 0.99, newton_schulz_steps: int = 3
) -> optax.GradientTransformation:
    """Makes Muon (Jordan et al. 2024): momentum with all singular values near one; Adam for all but matrices.

    Muon learns rare directions of a kernel as fast as common ones, and a caption is a rare direction. In equal time,
    the quickstart's base learns more captions with Muon than with Adam.

    Args:
        learning_rate: learning rate of Muon.
        adam_ratio: ratio of Adam's learning rate to Muon's.
        b2: decay of Adam's second moment.
        newton_schulz_steps: iterations of the Newton-Schulz approximation. Five are usual; three cost little time with
            a small batch.
    """
    return optax.contrib.muon(
        learning_rate,
        ns_steps=newton_schulz_steps,
        adam_b2=b2,
        adam_learning_rate=lambda step: adam_ratio * learning_rate(step),
        muon_weight_dimension_numbers=kernel_dimensions,
    )


OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "adam": adam,
    "adamw": adamw,
    "adafactor": adafactor,
    "muon": muon,
}


def warm_up_then_cosine(peak: float, warm_up_steps: int, decay_steps: int) -> optax.Schedule:
    """Makes a learning rate: linear from 0 to ``peak``, then a cosine to 0 at ``decay_steps`` from the start.

    Raises:
        UserError: ``warm_up_steps`` is negative, or not below ``decay_steps``.
    """
    if not 0 <= warm_up_steps < decay_steps:
        raise UserError(
            f"--config.optimizer.warm_up_steps={warm_up_steps} must be at least 0 and below "
            f"--config.optimizer.decay_steps={decay_steps}: shorten the warm-up"
        )
    return optax.warmup_cosine_decay_schedule(0.0, peak, warm_up_steps, decay_steps)


COMMON = ("name", "learning_rate", "warm_up_steps", "decay_steps", "clip_norm")
"""Keys of ``config.optimizer`` common to all optimizers."""


def make_optimizer(
    name: str,
    *,
    learning_rate: float,
    warm_up_steps: int,
    decay_steps: int,
    clip_norm: float | None,
    **options: float | int,
) -> optax.GradientTransformation:
    """Makes the optimizer that a config names.

    Args:
        name: a key of ``OPTIMIZERS``.
        learning_rate: peak learning rate.
        warm_up_steps: see ``warm_up_then_cosine``.
        decay_steps: see ``warm_up_then_cosine``.
        clip_norm: max global norm of a gradient; None for no clipping (the paper does not specify it).
        **options: other arguments of the optimizer.

    Raises:
        UserError: the optimizer or an option is unknown (the message names the nearest), or the warm-up is invalid.
    """
    make = lookup(OPTIMIZERS, name, "optimizer")
    own = [one for one in inspect.signature(make).parameters if one != "learning_rate"]
    check_names(options, [*own, *COMMON], f"option of the optimizer {name!r}:")
    optimizer = make(warm_up_then_cosine(learning_rate, warm_up_steps, decay_steps), **options)
    return optimizer if clip_norm is None else optax.chain(optax.clip_by_global_norm(clip_norm), optimizer)


def make_schedule(settings: Mapping[str, Any]) -> optax.Schedule:
    """Makes the learning rate of ``make_optimizer(**settings)`` as a function of the number of updates so far.

    Raises:
        UserError: the warm-up is negative or not shorter than the decay.
    """
    return warm_up_then_cosine(settings["learning_rate"], settings["warm_up_steps"], settings["decay_steps"])


def count_updates(opt_state: optax.OptState) -> Int[jax.Array, ""]:
    """Returns the number of updates of an optimizer of ``OPTIMIZERS``, the position in its learning rate schedule.

    Skipped steps do not count.

    Raises:
        KeyError: the optimizer's state has no ``count``.
    """
    counts = optax.tree_utils.tree_get_all_with_path(opt_state, "count")
    if not counts:
        raise KeyError("count")
    return counts[0][1]


def check_schedule(schedule: optax.Schedule, steps: int) -> None:
    """Checks that a run does not continue after its learning rate has reached 0 for good.

    Args:
        schedule: learning rate as a function of the number of updates so far; once it is 0 after its peak, it stays 0.
        steps: last step of the run.

    Raises:
        UserError: the last steps would change nothing; the message names the settings that avoid it.
    """
    if learning_rate_at(schedule, steps - 1) > 0 or learning_rate_at(schedule, steps) > 0:
        return
    # Find an update with a learning rate above 0: the powers of two hit the rise or fall of every schedule.
    samples = [0, *(2**power for power in range(max(steps, 1).bit_length()))]
    above = max(
        (number for number in samples if number < steps and learning_rate_at(schedule, number) > 0), default=None
    )
    if above is None:
        raise UserError("the learning rate is 0 at every step: set --config.optimizer.learning_rate above 0")
    zero = steps - 1
    while zero - above > 1:
        middle = (above + zero) // 2
        above, zero = (middle, zero) if learning_rate_at(schedule, middle) > 0 else (above, middle)
    raise UserError(
        f"--config.training.steps={steps} exceeds {zero}, the step at which the learning rate has decayed to 0: set "
        f"--config.training.steps={zero} or less, or --config.optimizer.decay_steps={steps} or more"
    )


def learning_rate_at(schedule: optax.Schedule, updates: int) -> float:
    """Returns the learning rate after a number of updates.

    It is computed in float64, because in float32 the end of a long cosine reaches 0 too early.
    """
    with jax.enable_x64(True):
        return float(schedule(np.float64(updates)))
