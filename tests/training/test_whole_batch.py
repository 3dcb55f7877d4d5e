"""Gradients of a loss of a whole batch, whose examples are embedded in parts; and SAM, against its definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.sharding.mesh import make_mesh
from imagen_jax.sharding.placement import batch_placement, replicated
from imagen_jax.training.whole_batch import (
    differentiate_cached,
    differentiate_whole,
    sharpness_aware,
    sharpness_aware_in_shares,
)
from tests.tiers import thorough_except

EXAMPLES, INPUTS, WIDTH = 16, 5, 3


def embed(params, batch, key):
    """Two small towers; the key is of dropout that is off."""
    del key
    return tuple(jnp.tanh(array @ params[name]) for name, array in zip(("image", "text"), batch, strict=True))


def loss(params, embeddings, batch):
    """A contrastive loss: each example's depends on all others."""
    del batch
    images, texts = embeddings
    logits = params["scale"] * images @ texts.T
    value = jnp.mean(jax.nn.logsumexp(logits, axis=1) - jnp.diag(logits))
    return value, {"largest": jnp.max(logits)}


@pytest.fixture(scope="module")
def given():
    generator = np.random.default_rng(0)
    params = {name: generator.normal(size=(INPUTS, WIDTH)).astype(np.float32) for name in ("image", "text")}
    batch = tuple(generator.normal(size=(2, EXAMPLES, INPUTS)).astype(np.float32))
    return params | {"scale": np.float32(3.0)}, batch, jax.random.key(0)


def assert_equal_trees(ours, expected, tolerance):
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, atol=tolerance)


@pytest.mark.parametrize("pieces", thorough_except([4], [2, 4, 16]))
def test_parts_have_the_gradient_of_the_whole_batch(given, pieces):
    whole = jax.jit(differentiate_whole(embed, loss))(*given)
    cached = jax.jit(differentiate_cached(embed, loss, pieces))(*given)
    assert_equal_trees(cached, whole, 1e-6)
    means = [loss(given[0], tuple(array[index::pieces] for array in embed(*given)), None)[0] for index in range(pieces)]
    # The mean of the parts' own losses is another objective, with fewer negatives.
    assert np.mean(means) < float(whole[0][0]) - 0.3


@pytest.mark.thorough
def test_dropout_is_the_same_in_both_passes(given):
    def embed_with_dropout(params, batch, key):
        mask = jax.random.bernoulli(key, 0.5, batch[0].shape)
        return embed(params, (batch[0] * mask, batch[1]), key)

    params, batch, key = given
    pieces = 4
    (value, _), gradient = jax.jit(differentiate_cached(embed_with_dropout, loss, pieces))(*given)

    def loss_by_hand(params):
        parts = [
            embed_with_dropout(
                params, tuple(array[index::pieces] for array in batch), jax.random.split(key, pieces)[index]
            )
            for index in range(pieces)
        ]
        images, texts = (jnp.stack(arrays, axis=1).reshape(EXAMPLES, WIDTH) for arrays in zip(*parts, strict=True))
        return loss(params, (images, texts), None)[0]

    assert value == pytest.approx(float(loss_by_hand(params)), rel=1e-6)
    assert_equal_trees(gradient, jax.grad(loss_by_hand)(params), 1e-6)


def test_sam_takes_the_gradient_uphill(given):
    params, batch, key = given
    rho = 0.1
    plain = differentiate_whole(embed, loss)
    answer, ours = jax.jit(sharpness_aware(plain, rho))(*given)
    first, gradient = plain(params, batch, key)
    length = np.sqrt(sum(np.square(leaf).sum() for leaf in jax.tree.leaves(gradient)))
    uphill = jax.tree.map(lambda param, slope: param + rho * slope / length, params, gradient)
    moved = np.sqrt(sum(np.square(a - b).sum() for a, b in zip(*map(jax.tree.leaves, (uphill, params)), strict=True)))
    assert moved == pytest.approx(rho, rel=1e-4)
    assert_equal_trees(ours, plain(uphill, batch, key)[1], 1e-5)
    assert answer[0] == pytest.approx(float(first[0]), rel=1e-6)


def test_shares_step_uphill_by_themselves_and_meet_in_one_loss(given):
    params, batch, key = given
    rho, share = 0.2, 4
    (value, _), ours = jax.jit(sharpness_aware_in_shares(embed, loss, rho, share))(*given)
    neighbours = []
    for first in range(0, EXAMPLES, share):
        part = tuple(array[first : first + share] for array in batch)
        gradient = jax.grad(lambda params, part=part: loss(params, embed(params, part, key), part)[0])(params)
        length = np.sqrt(sum(np.square(leaf).sum() for leaf in jax.tree.leaves(gradient)))
        neighbours.append(jax.tree.map(lambda slope, length=length: rho * slope / length, gradient))

    def loss_by_hand(params):
        parts = []
        for index, offset in enumerate(neighbours):
            rows = slice(index * share, (index + 1) * share)
            parts.append(embed(jax.tree.map(jnp.add, params, offset), tuple(array[rows] for array in batch), key))
        return loss(params, tuple(jnp.concatenate(arrays) for arrays in zip(*parts, strict=True)), None)[0]

    assert value == pytest.approx(float(loss_by_hand(params)), rel=1e-5)
    assert_equal_trees(ours, jax.grad(loss_by_hand)(params), 1e-5)


def test_one_share_of_the_whole_batch_is_sam(given):
    # The loss has no parameter of its own, which would stay where it is.
    def loss_alone(params, embeddings, batch):
        return loss({"scale": 3.0}, embeddings, batch)

    whole = jax.jit(sharpness_aware(differentiate_whole(embed, loss_alone), 0.1))(*given)
    shared = jax.jit(sharpness_aware_in_shares(embed, loss_alone, 0.1, EXAMPLES))(*given)
    assert_equal_trees(shared[1], whole[1], 1e-5)


@pytest.mark.parametrize("make", ["cached", "shares"])
def test_eight_devices_compute_the_gradient_of_one(given, make):
    params, batch, key = given
    differentiate = {
        "cached": differentiate_cached(embed, loss, 2),
        "shares": sharpness_aware_in_shares(embed, loss, 0.1, 2),
    }[make]
    expected = jax.jit(differentiate)(*given)
    mesh = make_mesh({"data": 8}, jax.devices())
    sharded, whole = batch_placement(mesh, EXAMPLES), replicated(mesh)
    with jax.set_mesh(mesh):
        ours = jax.jit(differentiate, in_shardings=(whole, sharded, whole))(
            jax.device_put(params, whole), jax.device_put(batch, sharded), jax.device_put(key, whole)
        )
    assert_equal_trees(ours, expected, 1e-5)
