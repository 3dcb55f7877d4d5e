"""The optimizers of Imagen (appendix F.1), Adafactor for the base and Adam for super-resolution; and Muon."""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import optax
from optax.contrib import MuonDimensionNumbers

from imagen_jax.errors import UserError, check_names, choose


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
    **options: float,
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
    make = choose(OPTIMIZERS, name, "optimizer")
    own = [one for one in inspect.signature(make).parameters if one != "learning_rate"]
    check_names(options, [*own, *COMMON], f"option of the optimizer {name!r}:")
    optimizer = make(warm_up_then_cosine(learning_rate, warm_up_steps, decay_steps), **options)
    return optimizer if clip_norm is None else optax.chain(optax.clip_by_global_norm(clip_norm), optimizer)
