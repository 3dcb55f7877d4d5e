"""The state of a training run: one flat struct, saved and restored as a whole."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from imagen_jax.array_types import RandomKey, Scalar

Params = Any
"""A network's parameters: nested dicts of arrays."""


class TrainState(NamedTuple):
    """The state of a run, except the position in the data, which a checkpoint stores separately.

    Attributes:
        step: number of steps so far, including skipped ones.
        params: the network's parameters.
        ema_params: exponential moving average of the parameters, used for sampling.
        opt_state: state of the optimizer.
        key: random key of the run; step s uses ``fold_in(key, s)``, so a resumed run continues the same stream.
    """

    step: Int[Array, ""]
    params: Params
    ema_params: Params
    opt_state: optax.OptState
    key: RandomKey


def initial_state(params: Params, optimizer: optax.GradientTransformation, key: RandomKey) -> TrainState:
    """Returns the state before the first update; the average starts as a copy of the parameters."""
    average = jax.tree.map(jnp.copy, params)
    return TrainState(jnp.zeros((), jnp.int32), params, average, optimizer.init(params), key)


def update_average(average: Params, params: Params, step: Int[Array, ""], decay: float, warm_up: bool) -> Params:
    """Updates the exponential moving average: ``average ← d·average + (1 - d)·params``.

    Args:
        average: average so far.
        params: parameters after this update.
        step: number of steps before this one.
        decay: d, in [0, 1).
        warm_up: whether to start with a smaller d, d = min(decay, (1 + step)/(10 + step)), so that the average of a
            short run forgets its random start.
    """
    current: float | Scalar = decay
    if warm_up:
        current = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return optax.incremental_update(params, average, 1.0 - current)
