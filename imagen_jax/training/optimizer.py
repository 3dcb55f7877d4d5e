"""The optimizers of Imagen (appendix F.1), Adafactor for the base and Adam for super-resolution; and Muon."""

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
    """Adam with the paper's constants."""
    return optax.adam(learning_rate, b1=b1, b2=b2, eps=epsilon)


def adafactor(learning_rate: optax.Schedule) -> optax.GradientTransformation:
    """Adafactor with optax's defaults and no weight decay, as the paper states."""
    return optax.adafactor(learning_rate)


LAST_LAYERS = ("out", "conv_out")


def kernel_dimensions(params: Any) -> Any:
    """Which axes of a kernel are its inputs and which its outputs; None for what Muon leaves to Adam.

    Those are vectors and the network's last layer, as Muon's authors advise.
    Dense layers with heads, ``(inputs, heads, head_channels)``, are one matrix.
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
    """Muon (Jordan et al. 2024): momentum whose singular values are all made about one; Adam where there is no matrix.

    Rare directions of a kernel are learned as fast as common ones, and a caption is a rare direction: at equal time the
    quickstart's base knows more captions by it than by Adam.

    Args:
        learning_rate: Muon's.
        adam_ratio: Adam's learning rate is this many times Muon's.
        b2: Adam's.
        newton_schulz_steps: iterations of the approximation; five is usual, and three cost little on a small batch.
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
    "adafactor": adafactor,
    "muon": muon,
}


def warm_up_then_cosine(peak: float, warm_up_steps: int, decay_steps: int) -> optax.Schedule:
    """Learning rate: linear from 0 to ``peak``, then along a cosine to 0 at ``decay_steps`` (counted from the start).

    Raises:
        UserError: the warm-up does not end before the decay does.
    """
    if not 0 <= warm_up_steps < decay_steps:
        raise UserError(
            f"optimizer.warm_up_steps={warm_up_steps} must be below decay_steps={decay_steps}: shorten the warm-up"
        )
    return optax.warmup_cosine_decay_schedule(0.0, peak, warm_up_steps, decay_steps)


COMMON = ("name", "learning_rate", "warm_up_steps", "decay_steps", "clip_norm")
"""Keys of ``config.optimizer`` that every optimizer has."""


def make_optimizer(
    name: str,
    *,
    learning_rate: float,
    warm_up_steps: int,
    decay_steps: int,
    clip_norm: float | None,
    **options: float | int,
) -> optax.GradientTransformation:
    """Makes the optimizer a config names.

    Args:
        name: a key of ``OPTIMIZERS``.
        learning_rate: its peak.
        warm_up_steps: see ``warm_up_then_cosine``.
        decay_steps: see ``warm_up_then_cosine``.
        clip_norm: largest global norm of a gradient; None leaves gradients alone (the paper does not say).
        **options: whatever else the optimizer takes.

    Raises:
        UserError: an unknown optimizer or option (names the nearest), or a warm-up that does not fit.
    """
    make = lookup(OPTIMIZERS, name, "optimizer")
    own = [one for one in inspect.signature(make).parameters if one != "learning_rate"]
    check_names(options, [*own, *COMMON], f"option of the optimizer {name!r}:")
    optimizer = make(warm_up_then_cosine(learning_rate, warm_up_steps, decay_steps), **options)
    return optimizer if clip_norm is None else optax.chain(optax.clip_by_global_norm(clip_norm), optimizer)


def make_schedule(settings: Mapping[str, Any]) -> optax.Schedule:
    """Makes the learning rate that ``make_optimizer(**settings)`` follows, of the number of updates made before.

    Raises:
        UserError: the schedule is impossible.
    """
    return warm_up_then_cosine(settings["learning_rate"], settings["warm_up_steps"], settings["decay_steps"])


def count_updates(opt_state: optax.OptState) -> Int[jax.Array, ""]:
    """How many updates an optimizer of ``OPTIMIZERS`` has made: its schedule is at this place. Skipped steps make none.

    Raises:
        KeyError: it is another optimizer, which does not count.
    """
    return optax.tree_utils.tree_get_all_with_path(opt_state, "count")[0][1]


def check_schedule(schedule: optax.Schedule, steps: int) -> None:
    """Checks that a run of so many steps ends before its learning rate has come to 0 for good.

    Args:
        schedule: the learning rate, of the number of updates made before; once 0 after its peak it stays so.
        steps: the last step of the run.

    Raises:
        UserError: the last steps would change nothing; names the settings that avoid it.
    """
    if learning_rate_at(schedule, steps - 1) > 0 or learning_rate_at(schedule, steps) > 0:
        return
    # A place with a learning rate: the powers of two come by every schedule's rise and fall.
    places = [0, *(2**power for power in range(max(steps, 1).bit_length()))]
    above = max((place for place in places if place < steps and learning_rate_at(schedule, place) > 0), default=None)
    if above is None:
        raise UserError("the learning rate is 0 at every step: set --config.optimizer.learning_rate above 0")
    zero = steps - 1
    while zero - above > 1:
        middle = (above + zero) // 2
        above, zero = (middle, zero) if learning_rate_at(schedule, middle) > 0 else (above, middle)
    raise UserError(
        f"training.steps={steps} exceeds {zero}, the step at which the learning rate has decayed to 0: set "
        f"--config.training.steps={zero} or less, or --config.optimizer.decay_steps={steps} or more"
    )


def learning_rate_at(schedule: optax.Schedule, updates: int) -> float:
    """The learning rate after so many updates, in float64: in float32 the end of a long cosine is 0 too early."""
    with jax.enable_x64(True):
        return float(schedule(np.float64(updates)))
