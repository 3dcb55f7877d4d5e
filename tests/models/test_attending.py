"""Attention and its gradients equal their definitions, in any order in which a device computes them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.models import attending
from imagen_jax.models.attending import attend, attend_as_written, count_groups
from imagen_jax.runtime.backend import plain_implementations
from imagen_jax.sharding.mesh import make_mesh
from imagen_jax.sharding.placement import batch_placement
from tests.tiers import thorough_except

pytestmark = pytest.mark.usefixtures("as_users_have_it")


def example(masked: bool, batch: int = 4, queries: int = 6, keys: int = 5):
    """Query, key and value of 2 heads; of the masks the first hides nothing, and the last everything."""
    generator = np.random.default_rng(0)
    shapes = (batch, queries, 2, 3), (batch, keys, 2, 3), (batch, keys, 2, 3)
    arrays = [jnp.asarray(2 * generator.standard_normal(shape), jnp.float32) for shape in shapes]
    mask = np.arange(keys)[None] < np.linspace(keys, 0, batch).round()[:, None]
    return *arrays, jnp.asarray(mask) if masked else None


def by_definition(query, key, value, mask):
    """In float64, one query of one head at a time."""
    query, key, value = (np.asarray(array, np.float64) for array in (query, key, value))
    outputs = np.zeros(query.shape)
    for example, position, head in np.ndindex(query.shape[:3]):
        scores = key[example, :, head] @ query[example, position, head] / query.shape[-1] ** 0.5
        if mask is not None and np.any(mask[example]):
            scores[~np.asarray(mask[example])] = -np.inf
        weights = np.exp(scores - scores.max())
        if mask is not None and not np.any(mask[example]):
            weights = np.ones_like(weights)
        outputs[example, position, head] = weights / weights.sum() @ value[example, :, head]
    return outputs.reshape(*query.shape[:2], -1)


@pytest.fixture(params=thorough_except([1, 4], [1, 2, 4]), name="groups")
def make_groups(request, monkeypatch):
    """Splits the examples into this many groups, as on a machine with one device."""
    monkeypatch.setattr(attending, "computes_on_one_device", lambda: True)
    monkeypatch.setattr(attending, "MAX_WEIGHTS", 4 * 2 * 6 * 5 // request.param)
    assert count_groups((4, 6, 2, 3), 5) == request.param
    return request.param


@pytest.mark.parametrize("masked", [False, True], ids=["all count", "some hidden"])
def test_it_is_the_definition(masked, groups):
    arrays = example(masked)
    np.testing.assert_allclose(attend(*arrays), by_definition(*arrays), atol=2e-6)


def test_a_mask_may_differ_between_queries(groups):
    """As in causal attention: each query by itself is one with a mask of its own."""
    *arrays, _ = example(False)
    pairs = jnp.asarray(np.random.default_rng(1).random((4, 6, 5)) < 0.5)
    query, key, value = arrays
    of_queries = [by_definition(query[:, [one]], key, value, pairs[:, one]) for one in range(6)]
    np.testing.assert_allclose(attend(*arrays, pairs), np.concatenate(of_queries, axis=1), atol=2e-6)


@pytest.mark.parametrize("masked", [False, True], ids=["all count", "some hidden"])
def test_its_gradients_are_those_of_the_program_as_it_is_written(masked, groups):
    *arrays, mask = example(masked)
    outputs, pull_back = jax.vjp(lambda *arrays: attend(*arrays, mask), *arrays)
    written, pull_written = jax.vjp(lambda *arrays: attend_as_written(*arrays, mask), *arrays)
    direction = jnp.cos(jnp.arange(written.size, dtype=jnp.float32)).reshape(written.shape)
    found, expected = pull_back(direction.reshape(outputs.shape)), pull_written(direction)
    for ours, theirs in zip(found, expected, strict=True):
        assert np.any(theirs)
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_the_gradient_keeps_no_weights():
    *arrays, mask = example(True, queries=40, keys=50)
    _, pull_back = jax.vjp(lambda *arrays: attend(*arrays, mask), *arrays)
    weights = 4 * 2 * 40 * 50
    assert all(leaf.size < weights for leaf in jax.tree.leaves(pull_back))


def test_a_batch_without_small_equal_groups_is_split_into_single_examples(monkeypatch):
    monkeypatch.setattr(attending, "computes_on_one_device", lambda: True)
    assert count_groups((7, 4096, 8, 64), 4096) == 7
    assert count_groups((6, 1024, 4, 48), 1024) == 6
    assert count_groups((6, 512, 4, 48), 1024) == 3
    assert count_groups((6, 16, 4, 48), 16) == 1


def test_devices_that_share_a_batch_do_not_split_it_and_use_no_collectives():
    mesh = make_mesh({"data": 2, "tensor": 2}, jax.devices()[:4])
    sharding = batch_placement(mesh, 8)
    arrays = example(True, batch=8)

    def with_gradients(query, key, value, mask):
        outputs, pull_back = jax.vjp(lambda *arrays: attend(*arrays, mask), query, key, value)
        return outputs, pull_back(outputs)

    with jax.set_mesh(mesh):
        assert count_groups((8, 4096, 8, 64), 4096) == 1
        shared = jax.jit(with_gradients).lower(*jax.device_put(arrays, sharding)).compile()
        outputs, _ = shared(*jax.device_put(arrays, sharding))
    for exchange in ("all-gather", "all-reduce", "all-to-all", "collective-permute"):
        assert exchange not in shared.as_text()
    np.testing.assert_allclose(outputs, by_definition(*arrays), atol=2e-6)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_accelerators_and_bfloat16_keep_the_program_as_it_is_written(dtype):
    *arrays, mask = example(True)
    arrays = [array.astype(dtype) for array in arrays]

    def program():
        return str(jax.make_jaxpr(lambda *arrays: attend(*arrays, mask))(*arrays))

    assert ("custom_vjp" in program()) == (dtype == jnp.float32)
    with plain_implementations():
        assert "custom_vjp" not in program()
    outputs = attend(*arrays, mask)
    assert outputs.dtype == dtype
    np.testing.assert_allclose(np.asarray(outputs, np.float32), by_definition(*arrays, mask), atol=0.1)
