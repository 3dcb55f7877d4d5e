"""One update, as one pure function, jitted with explicit shardings and a donated state."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from imagen_jax.array_types import RandomKey
from imagen_jax.runtime.backend import compiler_options
from imagen_jax.sharding.placement import replicated
from imagen_jax.training.optimizer import count_updates
from imagen_jax.training.state import Params, TrainState, update_average

Batch = Any
Loss = Callable[[Params, Batch, RandomKey], Any]
"""``loss(params, batch, key)``: all randomness of a step comes from its key. With ``has_aux`` it returns a pair."""

Differentiate = Callable[[Params, Batch, RandomKey], tuple[Any, Params]]
"""``differentiate(params, batch, key)``: what the loss returns, and the gradient."""

TrainStep = Callable[[TrainState, Batch], tuple[TrainState, Mapping[str, Any]]]

AUX = "aux"
"""Key of a step's metrics for what the loss returns besides its value."""


def make_train_step(
    loss: Loss,
    optimizer: optax.GradientTransformation,
    *,
    ema_decay: float,
    ema_warm_up: bool,
    gradient_accumulation: int = 1,
    schedule: optax.Schedule | None = None,
    has_aux: bool = False,
    differentiate: Differentiate | None = None,
    after_update: Callable[[Params], Params] = lambda params: params,
) -> TrainStep:
    """Makes ``step(state, batch) -> (next state, metrics)``.

    If the loss or the gradient's norm is not finite, the step is skipped: parameters, average and optimizer state stay
    bitwise unchanged. Only the step number increases, so the random key and the data position still advance.

    The metrics are ``loss``, ``gradient_norm``, ``skipped`` (1 if the step was skipped, else 0), ``learning_rate`` if
    the schedule is given, and ``aux`` if the loss returns more than its value.

    Args:
        loss: loss as a function of the parameters.
        optimizer: optax optimizer of the parameters.
        ema_decay: argument ``decay`` of ``update_average``.
        ema_warm_up: argument ``warm_up`` of ``update_average``.
        gradient_accumulation: number of micro-batches for gradient accumulation; more of them need less memory.
        schedule: learning rate of the optimizer, for the metrics; see ``optimizer.make_schedule``.
        has_aux: whether the loss returns a pair: its value, and a tree of arrays for the metrics. With gradient
            accumulation these arrays are averaged over the micro-batches, as the value is.
        differentiate: computes loss and gradient, for a loss whose micro-batches depend on each other; it then replaces
            ``loss`` and ``gradient_accumulation``.
        after_update: changes the parameters after each update, such as to keep one of them in a range.
    """
    if differentiate is None:
        differentiate = jax.value_and_grad(loss, has_aux=has_aux)
        if gradient_accumulation > 1:
            differentiate = in_pieces(differentiate, gradient_accumulation)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Mapping[str, Any]]:
        key = jax.random.fold_in(state.key, state.step)
        answer, gradient = differentiate(state.params, batch, key)
        value, aux = answer if has_aux else (answer, None)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        params = after_update(optax.apply_updates(state.params, updates))
        average = update_average(state.ema_params, params, state.step, ema_decay, ema_warm_up)
        norm = optax.tree.norm(gradient)
        # Selecting each value instead of branching fuses with the update, and needs no decision on the host.
        finite = jnp.isfinite(value) & jnp.isfinite(norm)
        after, before = (params, average, opt_state), (state.params, state.ema_params, state.opt_state)
        params, average, opt_state = jax.tree.map(lambda new, old: jax.lax.select(finite, new, old), after, before)
        metrics = {"loss": value, "gradient_norm": norm, "skipped": 1.0 - finite}
        if aux is not None:
            metrics[AUX] = aux
        if schedule is not None:
            metrics["learning_rate"] = jnp.asarray(schedule(count_updates(state.opt_state)), jnp.float32)
        return TrainState(state.step + 1, params, average, opt_state, state.key), metrics

    return step


def split_batch(batch: Any, pieces: int) -> Any:
    """Splits a tree of arrays into micro-batches: ``(examples, …)`` becomes ``(pieces, examples / pieces, …)``.

    A micro-batch takes every ``pieces``-th example, so that each device keeps its own examples.
    """
    return jax.tree.map(lambda array: jnp.moveaxis(array.reshape(-1, pieces, *array.shape[1:]), 1, 0), batch)


def join_batch(micro_batches: Any) -> Any:
    """Inverts ``split_batch``."""
    return jax.tree.map(lambda array: jnp.moveaxis(array, 0, 1).reshape(-1, *array.shape[2:]), micro_batches)


def in_pieces(differentiate: Differentiate, pieces: int) -> Differentiate:
    """Makes a function that averages loss and gradient over micro-batches, each with its own key.

    The examples are split as ``split_batch`` does.
    """

    def mean_of_pieces(params: Params, batch: Batch, key: RandomKey) -> tuple[Any, Params]:
        def add_piece(total: Any, piece: Any) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, total, differentiate(params, *piece)), None

        micro_batches = (split_batch(batch, pieces), jax.random.split(key, pieces))
        shapes = jax.eval_shape(differentiate, params, *jax.tree.map(lambda array: array[0], micro_batches))
        zeros = jax.tree.map(lambda array: jnp.zeros(array.shape, array.dtype), shapes)
        total, _ = jax.lax.scan(add_piece, zeros, micro_batches)
        return jax.tree.map(lambda array: array / pieces, total)

    return mean_of_pieces


def lower_train_step(step: TrainStep, state: TrainState, batch: Batch, mesh: Mesh) -> jax.stages.Lowered:
    """Traces and lowers a step for compilation ahead of time, so that the first step is as fast as the others.

    Args:
        step: pure step function; the compiled one consumes its state.
        state: shapes of the state, with their shardings.
        batch: shapes of the batch, with their shardings.
        mesh: mesh of the shardings; its devices need not be on this machine.
    """
    placement = jax.tree.map(lambda array: array.sharding, (state, batch))
    jitted = jax.jit(
        step,
        in_shardings=placement,
        # Every process reads all metrics, so none may be sharded over the processes.
        out_shardings=(placement[0], replicated(mesh)),
        donate_argnums=0,
        compiler_options=compiler_options(mesh.devices.flat[0].platform),
    )
    # Layers read the current mesh while they are traced.
    with jax.set_mesh(mesh):
        return jitted.lower(state, batch)
