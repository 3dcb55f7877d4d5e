"""The gradient of a config's loss, at parameters that are not zero."""

import jax
import jax.numpy as jnp

from imagen_jax.counting.programs import training_program
from imagen_jax.stages import build_stage, initial_params


def lower_gradient(config):
    """The loss and its gradient on two random examples: the lowered program, and what it takes."""
    stage = build_stage(config)
    program = training_program(stage, config, batch_size=2)
    params = jax.tree.map(
        lambda leaf: leaf + 0.1 * jnp.sin(jnp.arange(leaf.size, dtype=jnp.float32)).reshape(leaf.shape),
        initial_params(stage, jax.random.key(0)),
    )
    batch = jax.tree.map(
        lambda shape: jax.random.normal(jax.random.key(2), shape.shape).astype(shape.dtype), program.arguments[1]
    )
    arguments = params, batch, jax.random.key(1)
    return jax.jit(program.function).lower(*arguments), arguments
