"""Training from weights: what is loaded, what is new, what was left, and errors that name both sides."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.errors import UserError
from imagen_jax.training.starting import Weights, start_from
from imagen_jax.training.state import TrainState

KERNEL = np.arange(6.0, dtype=np.float32).reshape(2, 3)


def make_state():
    params = {"down": {"kernel": jnp.zeros((2, 3)), "bias": jnp.zeros(3)}, "up": {"kernel": jnp.ones((3, 3))}}
    return TrainState(jnp.asarray(0), params, jax.tree.map(jnp.copy, params), (), jax.random.key(0))


def weights(**params):
    return Weights({name.replace("_", "/"): array for name, array in params.items()}, "runs/base", 40)


def test_all_that_fits_is_loaded_into_parameters_and_average():
    state, sentence = start_from(make_state(), weights(down_kernel=KERNEL, middle_kernel=KERNEL))
    for tree in (state.params, state.ema_params):
        np.testing.assert_array_equal(tree["down"]["kernel"], KERNEL)
        np.testing.assert_array_equal(tree["up"]["kernel"], 1.0)
    assert all(
        fact in sentence for fact in ("runs/base", "step 40", "1 of 3", "down/bias", "up/kernel", "middle/kernel")
    )


def test_only_the_named_parts_are_loaded():
    there = weights(down_kernel=KERNEL, up_kernel=np.full((3, 3), 7.0))
    state, sentence = start_from(make_state(), there, ["up"])
    np.testing.assert_array_equal(state.params["down"]["kernel"], 0.0)
    np.testing.assert_array_equal(state.params["up"]["kernel"], 7.0)
    assert "left: down/kernel" in sentence


@pytest.mark.parametrize(
    ("there", "parts", "facts"),
    [
        (weights(down_kernel=KERNEL.T), (), r"down/kernel.*\(3, 2\).*runs/base.*\(2, 3\)"),
        (weights(other_kernel=KERNEL), (), r"runs/base has other/kernel.*this network down/"),
        (weights(down_kernel=KERNEL), ("dawn",), r"'dawn'.*'down'"),
    ],
)
def test_what_does_not_fit_is_named_on_both_sides(there, parts, facts):
    with pytest.raises(UserError, match=facts):
        start_from(make_state(), there, parts)
