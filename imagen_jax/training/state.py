"""What a training run is at one moment: one flat struct, saved and restored whole."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from imagen_jax.array_types import RandomKey, Scalar

Params = Any
"""A network's parameters: nested dicts of arrays."""


class TrainState(NamedTuple):
    """The whole state of a run, but for the position in the data, which a checkpoint keeps beside it.

    Attributes:
        step: number of updates made.
        params: the network's parameters.
        ema_params: their exponential moving average; sampling uses these.
        opt_state: the optimizer's state.
        key: the run's random key; step s uses ``fold_in(key, s)``, so a resume continues the same stream.
    """

    step: Int[Array, ""]
    params: Params
    ema_params: Params
    opt_state: optax.OptState
    key: RandomKey


def initial_state(params: Params, optimizer: optax.GradientTransformation, key: RandomKey) -> TrainState:
    """The state before the first update; the average starts as a copy of the parameters."""
    average = jax.tree.map(jnp.copy, params)
    return TrainState(jnp.zeros((), jnp.int32), params, average, optimizer.init(params), key)


def update_average(average: Params, params: Params, step: Int[Array, ""], decay: float, warm_up: bool) -> Params:
    """One step of the exponential moving average: ``average ← d·average + (1 - d)·params``.

    Args:
        average: the average so far.
        params: the parameters after this update.
        step: updates made before this one.
        decay: d, in [0, 1).
        warm_up: start with a shorter memory, d = min(decay, (1 + step)/(10 + step)), so that a short run's average does
            not remember its random start.
    """
    current: float | Scalar = decay
    if warm_up:
        current = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return optax.incremental_update(params, average, 1.0 - current)
