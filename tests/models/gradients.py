"""The gradient of a config's loss, at parameters that are not zero."""

import jax
import jax.numpy as jnp
import numpy as np

from imagen_jax.cascade.experiment import read_experiment
from imagen_jax.cascade.stage import abstract_params, build_stage
from imagen_jax.forecast.stage_programs import training_program
from imagen_jax.runtime.backend import compiler_options
from tests.drawn_params import draw_params


def lower_gradient(config):
    """The loss and its gradient on two random examples: the lowered program, and what it takes."""
    stage = build_stage(config)
    training = read_experiment(config).training
    program = training_program(stage, training, config.stage.crop, batch_size=2)
    generator = np.random.default_rng(2)
    batch = jax.tree.map(
        lambda shape: jnp.asarray(generator.standard_normal(shape.shape).astype(shape.dtype)), program.arguments[1]
    )
    arguments = draw_params(abstract_params(stage)), batch, jax.random.key(1)
    return jax.jit(program.function, compiler_options=compiler_options("cpu")).lower(*arguments), arguments
