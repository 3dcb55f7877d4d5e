"""One update, as one pure function, jitted with explicit shardings and a donated state."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from imagen_jax.array_types import RandomKey, Scalar
from imagen_jax.runtime.backend import compiler_options
from imagen_jax.training.optimizer import count_updates
from imagen_jax.training.state import Params, TrainState, update_average

Batch = Any
Loss = Callable[[Params, Batch, RandomKey], Scalar]
"""``loss(params, batch, key)``: all randomness of a step comes from its key."""

Differentiate = Callable[[Params, Batch, RandomKey], tuple[Scalar, Params]]
"""The loss and its gradient."""

TrainStep = Callable[[TrainState, Batch], tuple[TrainState, Mapping[str, Scalar]]]


def make_train_step(
    loss: Loss,
    optimizer: optax.GradientTransformation,
    *,
    ema_decay: float,
    ema_warm_up: bool,
    gradient_accumulation: int = 1,
    schedule: optax.Schedule | None = None,
) -> TrainStep:
    """Makes ``step(state, batch) -> (next state, metrics)``.

    Where the loss or the norm of the gradient is not finite, the step is skipped: parameters, average and optimizer
    stay as they were, to the bit, and only the number of steps goes on, and with it the random key and the data.

    Metrics are ``loss``, ``gradient_norm`` and ``skipped``, which is 1 where the step was skipped and else 0; and
    ``learning_rate``, where the schedule is given.

    Args:
        loss: of the parameters.
        optimizer: takes its gradient.
        ema_decay: see ``update_average``.
        ema_warm_up: likewise.
        gradient_accumulation: number of pieces of the batch whose gradients are computed one after the other.
        schedule: the learning rate that the optimizer follows, for the metrics; see ``optimizer.make_schedule``.
    """
    differentiate = jax.value_and_grad(loss)
    if gradient_accumulation > 1:
        differentiate = in_pieces(differentiate, gradient_accumulation)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Mapping[str, Scalar]]:
        key = jax.random.fold_in(state.key, state.step)
        value, gradient = differentiate(state.params, batch, key)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        average = update_average(state.ema_params, params, state.step, ema_decay, ema_warm_up)
        norm = optax.tree.norm(gradient)
        # A choice for each number, not a branch: so it fuses with the update, and nothing need be known on the host.
        finite = jnp.isfinite(value) & jnp.isfinite(norm)
        after, before = (params, average, opt_state), (state.params, state.ema_params, state.opt_state)
        params, average, opt_state = jax.tree.map(lambda new, old: jax.lax.select(finite, new, old), after, before)
        metrics = {"loss": value, "gradient_norm": norm, "skipped": 1.0 - finite}
        if schedule is not None:
            metrics["learning_rate"] = jnp.asarray(schedule(count_updates(state.opt_state)), jnp.float32)
        return TrainState(state.step + 1, params, average, opt_state, state.key), metrics

    return step


def in_pieces(differentiate: Differentiate, pieces: int) -> Differentiate:
    """The mean loss and gradient of a batch from those of its pieces, each with a key of its own.

    A piece takes every so many-th example: so each device keeps to the examples that it has.
    """

    def mean_of_pieces(params: Params, batch: Batch, key: RandomKey) -> tuple[Scalar, Params]:
        def cut(array: jax.Array) -> jax.Array:
            return jnp.moveaxis(array.reshape(-1, pieces, *array.shape[1:]), 1, 0)

        def add_piece(total: Any, piece: Any) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, total, differentiate(params, *piece)), None

        cuts = (jax.tree.map(cut, batch), jax.random.split(key, pieces))
        shapes = jax.eval_shape(differentiate, params, *jax.tree.map(lambda array: array[0], cuts))
        nothing = jax.tree.map(lambda array: jnp.zeros(array.shape, array.dtype), shapes)
        total, _ = jax.lax.scan(add_piece, nothing, cuts)
        return jax.tree.map(lambda array: array / pieces, total)

    return mean_of_pieces


def lower_train_step(step: TrainStep, state: TrainState, batch: Batch, mesh: Mesh) -> jax.stages.Lowered:
    """Traces a step and makes it ready to compile, ahead of time, so that the first one is as quick as the rest.

    Args:
        step: the pure step; the compiled one consumes the state it is given.
        state: shapes with their shardings.
        batch: shapes with their shardings.
        mesh: of the shardings; its devices need not be here.
    """
    placement = jax.tree.map(lambda array: array.sharding, (state, batch))
    jitted = jax.jit(
        step,
        in_shardings=placement,
        out_shardings=(placement[0], None),
        donate_argnums=0,
        compiler_options=compiler_options(mesh.devices.flat[0].platform),
    )
    # Layers ask for the mesh while they are traced.
    with jax.set_mesh(mesh):
        return jitted.lower(state, batch)
