"""One update, as one pure function, jitted with explicit shardings and a donated state."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import optax

from imagen_jax.array_types import RandomKey, Scalar
from imagen_jax.training.state import Params, TrainState, update_average

Batch = Any
Loss = Callable[[Params, Batch, RandomKey], Scalar]
"""``loss(params, batch, key)``: all randomness of a step comes from its key."""

TrainStep = Callable[[TrainState, Batch], tuple[TrainState, Mapping[str, Scalar]]]


def make_train_step(
    loss: Loss, optimizer: optax.GradientTransformation, *, ema_decay: float, ema_warm_up: bool
) -> TrainStep:
    """Makes ``step(state, batch) -> (next state, metrics)``; metrics are ``loss`` and ``gradient_norm``."""

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Mapping[str, Scalar]]:
        key = jax.random.fold_in(state.key, state.step)
        value, gradient = jax.value_and_grad(loss)(state.params, batch, key)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        average = update_average(state.ema_params, params, state.step, ema_decay, ema_warm_up)
        metrics = {"loss": value, "gradient_norm": optax.tree.norm(gradient)}
        return TrainState(state.step + 1, params, average, opt_state, state.key), metrics

    return step


def compile_train_step(step: TrainStep, state: TrainState, batch: Batch) -> TrainStep:
    """Compiles a step ahead of time, so that the first one is as quick as the rest.

    Args:
        step: the pure step; the compiled one consumes the state it is given.
        state: shapes with their shardings.
        batch: shapes with their shardings.
    """
    placement = jax.tree.map(lambda array: array.sharding, (state, batch))
    jitted = jax.jit(step, in_shardings=placement, out_shardings=(placement[0], None), donate_argnums=0)
    return jitted.lower(state, batch).compile()
