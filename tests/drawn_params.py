"""Parameters for tests of networks, drawn without compiling or running any program."""

import jax
import jax.numpy as jnp
import numpy as np


def draw_params(shapes, seed: int = 0):
    """Parameters of these shapes, none of which is zero, so that every path shows: as they might be after training.

    Kernels keep the variance of what they multiply, scales are about 1, and all else is about 0.1.

    Args:
        shapes: nested dicts of arrays' shapes, as ``jax.eval_shape`` gives them.
        seed: other parameters.
    """
    draws = np.random.default_rng(seed)

    def draw(path, leaf):
        noise = draws.standard_normal(leaf.shape, np.float32)
        if path[-1].key == "scale":
            return jnp.asarray(1 + 0.1 * noise)
        if path[-1].key == "kernel":
            return jnp.asarray(noise / np.float32(max(1, np.prod(leaf.shape[:-1])) ** 0.5))
        return jnp.asarray(0.1 * noise)

    return jax.tree_util.tree_map_with_path(draw, shapes)
