"""A loop over equal blocks computes what the blocks do written out."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.imagen import super_res_256
from imagen_jax.cascade.stage import abstract_params, build_stage
from imagen_jax.forecast.stage_programs import count_training_operations
from imagen_jax.models.equal_blocks import run_blocks
from tests.models.gradients import lower_gradient


def deep_config(scan, **network):
    """Two levels; the second has three blocks, the first of which is wider on the way up."""
    config = super_res_256.get_config("as_printed,smoke")
    config.network.update({"blocks": (1, 3), "scan": scan, **network})
    return config


@functools.cache
def lower(scan, **network):
    """The program of the loss and its gradient, and its arguments, with parameters that are not zero."""
    return lower_gradient(deep_config(scan, **network))


@functools.cache
def run(scan, **network):
    """The loss and its gradient."""
    lowered, arguments = lower(scan, **network)
    return lowered.compile()(*arguments)


def count_convolutions(scan):
    lowered, _ = lower(scan)
    return lowered.as_text().count("stablehlo.convolution")


@pytest.mark.thorough
@pytest.mark.parametrize("remat", ["none", "blocks"])
def test_the_loop_has_the_same_parameters_loss_and_gradient(remat):
    loss, gradient = run(False)
    looped_loss, looped_gradient = run(True, remat=remat)
    np.testing.assert_allclose(looped_loss, loss, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-5), gradient, looped_gradient)
    assert all(np.any(leaf != 0) for leaf in jax.tree.leaves(gradient["down_1_2"]))


def test_a_block_in_a_loop_is_in_the_program_once():
    """Of 3 equal blocks on the way down and 2 on the way up, 2 remain; each convolves twice, and has two gradients."""
    assert count_convolutions(False) - count_convolutions(True) == (3 + 2 - 2) * 2 * 3


def test_the_loop_changes_neither_the_parameters_nor_what_is_counted():
    plain, looped = deep_config(False), deep_config(True)
    assert abstract_params(build_stage(plain)) == abstract_params(build_stage(looped))
    assert count_training_operations(plain) == count_training_operations(looped)


class Dropping(nn.Module):
    """A block that is nothing but its dropout."""

    @nn.compact
    def __call__(self, x, embedding, train):
        bias = self.param("bias", nn.initializers.zeros, ())
        return nn.Dropout(0.5, deterministic=not train)(x) + bias


class Row(nn.Module):
    """Several of them."""

    count: int

    @nn.compact
    def __call__(self, x):
        names = [f"block_{index}" for index in range(self.count)]
        return run_blocks(self, Dropping, names, x, jnp.zeros((1, 1)), train=True, scan=True)


def test_each_iteration_samples_its_own_dropout():
    """Each of three blocks keeps half of the positions: an eighth is left. With equal masks, a half would be."""
    positions = jnp.ones((1, 64, 64, 1))
    row = Row(3)
    params = row.init({"params": jax.random.key(0), "dropout": jax.random.key(1)}, positions)
    kept = row.apply(params, positions, rngs={"dropout": jax.random.key(2)})
    assert np.mean(kept != 0) == pytest.approx(1 / 8, abs=0.03)
    assert set(np.unique(kept)) == {0, 8}
