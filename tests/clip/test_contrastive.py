"""The contrastive losses, against statements in NumPy with loops, and on eight devices against one."""

from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.clip.contrastive import LOSSES, Embeddings, Temperature, sigmoid_loss, softmax_loss
from imagen_jax.forecast.collectives import find_collectives
from imagen_jax.forecast.programs import read_instructions
from imagen_jax.sharding.mesh import make_mesh
from imagen_jax.sharding.placement import batch_placement, replicated

N, D = 6, 4


def random_pairs(seed=0, count=N, width=D):
    images, captions = np.random.default_rng(seed).normal(size=(2, count, width)).astype(np.float32)
    return Embeddings(jnp.asarray(3 * images), jnp.asarray(captions / 5))


def unit(vectors):
    vectors = np.asarray(vectors, np.float64)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def softmax_by_loops(pairs, scale, groups):
    images, captions = unit(pairs.images), unit(pairs.captions)
    losses = []
    for query, answers in ((images, captions), (captions, images)):
        for own in range(len(query)):
            kept = [other for other in range(len(query)) if other == own or groups[other] != groups[own]]
            powers = [np.exp(scale * query[own] @ answers[other]) for other in kept]
            losses.append(-np.log(np.exp(scale * query[own] @ answers[own]) / sum(powers)))
    return np.mean(losses)


def sigmoid_by_loops(pairs, scale, bias, groups):
    images, captions = unit(pairs.images), unit(pairs.captions)
    total = 0.0
    for i in range(len(images)):
        for j in range(len(captions)):
            if i != j and groups[i] == groups[j]:
                continue
            sign = 1 if i == j else -1
            total -= np.log(1 / (1 + np.exp(-sign * (scale * images[i] @ captions[j] + bias))))
    return total / len(images)


@pytest.mark.parametrize("groups", [None, [0, 1, 2, 1, 4, 0]])
@pytest.mark.parametrize("scale", [1.0, 14.3])
def test_softmax_is_the_mean_of_both_directions(groups, scale):
    pairs, temperature = random_pairs(), Temperature(jnp.log(scale))
    expected = softmax_by_loops(pairs, scale, range(N) if groups is None else groups)
    given = None if groups is None else jnp.asarray(groups)
    assert softmax_loss(pairs, temperature, given).loss == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("groups", [None, [0, 1, 2, 1, 4, 0]])
def test_sigmoid_judges_each_pair_by_itself(groups):
    pairs, temperature = random_pairs(), Temperature(jnp.log(10.0), jnp.asarray(-3.0))
    expected = sigmoid_by_loops(pairs, 10.0, -3.0, range(N) if groups is None else groups)
    given = None if groups is None else jnp.asarray(groups)
    assert sigmoid_loss(pairs, temperature, given).loss == pytest.approx(expected, rel=1e-5)


def test_a_batch_without_information_has_the_loss_of_guessing():
    alike = Embeddings(jnp.ones((N, D)), jnp.ones((N, D)))
    assert softmax_loss(alike, Temperature(jnp.log(50.0))).loss == pytest.approx(np.log(N), rel=1e-5)


def test_the_metrics_count_own_partners_that_are_nearest():
    images = jnp.eye(4)
    captions = images[jnp.array([0, 1, 3, 2])]
    metrics = softmax_loss(Embeddings(images, captions), Temperature(jnp.log(5.0))).metrics
    assert metrics["recall_of_captions"] == metrics["recall_of_images"] == 0.5
    assert metrics["logit_scale"] == pytest.approx(5.0)


def test_lengths_do_not_matter_and_zeros_are_finite():
    pairs = random_pairs()
    temperature = Temperature(jnp.log(10.0))
    longer = Embeddings(pairs.images * 7, pairs.captions / 9)
    assert softmax_loss(pairs, temperature).loss == pytest.approx(
        float(softmax_loss(longer, temperature).loss), rel=1e-5
    )
    zeros = Embeddings(jnp.zeros((N, D)), jnp.zeros((N, D)))
    gradient = jax.grad(lambda pairs: softmax_loss(pairs, temperature).loss)(zeros)
    assert all(np.isfinite(leaf).all() for leaf in gradient)


EXAMPLES, WIDTH = 256, 16
NUMBERS, MATRIX = 4 * EXAMPLES, 4 * EXAMPLES * WIDTH
COLLECTIVES = {
    "softmax": {("all-gather", NUMBERS): 2, ("all-gather", MATRIX): 1, ("all-reduce", NUMBERS): 2},
    "sigmoid": {("all-gather", MATRIX): 1},
}
"""Bytes of each collective, besides one sum of the captions' gradient and the scalars. Captions are gathered once."""


@pytest.mark.parametrize("loss", sorted(LOSSES))
def test_the_devices_exchange_the_embeddings_once_and_sums(loss):
    pairs, temperature = random_pairs(count=EXAMPLES, width=WIDTH), Temperature(jnp.log(20.0), jnp.asarray(-4.0))
    mesh = make_mesh({"data": 2, "fsdp": 4}, jax.devices())
    sharded = batch_placement(mesh, EXAMPLES)
    differentiate = jax.value_and_grad(lambda *arguments: LOSSES[loss](*arguments, None).loss, argnums=(0, 1))
    with jax.set_mesh(mesh):
        program = jax.jit(differentiate, in_shardings=(sharded, replicated(mesh))).lower(pairs, temperature).compile()
    instructions = list(read_instructions(program.as_text()))
    found = find_collectives(instructions, {one.computation: 1 for one in instructions})
    counted = Counter((one.kind, one.size) for one in found)
    (largest,) = [one for one in counted if one[0] == "all-reduce" and one[1] >= MATRIX]
    assert counted.pop(largest) == 1 and largest[1] < MATRIX + 64
    assert counted == COLLECTIVES[loss]


@pytest.mark.parametrize("loss", sorted(LOSSES))
def test_eight_devices_compute_the_gradient_of_one_and_none_has_the_whole_matrix(loss):
    count, width = 256, 16
    pairs = random_pairs(count=count, width=width)
    temperature = Temperature(jnp.log(20.0), jnp.asarray(-4.0))
    groups = jnp.asarray(np.random.default_rng(1).integers(0, 200, count), jnp.int32)
    differentiate = jax.value_and_grad(lambda *arguments: LOSSES[loss](*arguments).loss, argnums=(0, 1), allow_int=True)
    whole, of_one = jax.jit(lambda p, t: differentiate(p, t, groups))(pairs, temperature)
    mesh = make_mesh({"data": 2, "fsdp": 4}, jax.devices())
    sharded = batch_placement(mesh, count)
    program = jax.jit(lambda p, t, g: differentiate(p, t, g), in_shardings=(sharded, replicated(mesh), sharded))
    with jax.set_mesh(mesh):
        compiled = program.lower(pairs, temperature, groups).compile()
    value, of_eight = compiled(
        jax.device_put(pairs, sharded), jax.device_put(temperature, replicated(mesh)), jax.device_put(groups, sharded)
    )
    assert value == pytest.approx(float(whole), rel=1e-6)
    for one, eight in zip(jax.tree.leaves(of_one), jax.tree.leaves(of_eight), strict=True):
        np.testing.assert_allclose(eight, one, atol=1e-6)
    assert f"[{count},{count}]" not in compiled.as_text()
    assert f"[{count // 8},{count}]" in compiled.as_text()
