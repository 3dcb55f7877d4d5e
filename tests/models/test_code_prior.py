"""The prior of codes: causal, the same numbers with a cache, and it learns a conditional distribution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.array_types import Text
from imagen_jax.diffusion.conditions import Conditions, Vectors, null
from imagen_jax.errors import UserError
from imagen_jax.models.code_prior import CodePrior
from imagen_jax.sharding.axes import UNNAMED, axes_of, remove_logical_axes

SIZES = {"codes": 5, "buckets": 7, "similarity_buckets": 6, "text_length": 4, "width": 16, "layers": 2, "heads": 2}
BATCH, TEXT_WIDTH, CHANNELS = 3, 8, 10


def make_inputs(batch=BATCH, tokens=4, seed=0):
    generator = np.random.default_rng(seed)
    embeddings = jnp.asarray(generator.normal(size=(batch, tokens, TEXT_WIDTH)), jnp.float32)
    lengths = np.arange(batch) % tokens + 1
    mask = jnp.asarray(np.arange(tokens)[None] < lengths[:, None])
    vector = jnp.asarray(generator.normal(size=(batch, CHANNELS)), jnp.float32)
    conditions = Conditions(text=Text(embeddings, mask), text_vector=Vectors(vector, jnp.arange(batch) != 1))
    similarity = jnp.asarray(generator.integers(0, 6, batch), jnp.int32)
    return conditions, similarity, jnp.asarray(generator.integers(0, 7, (batch, 5)), jnp.int32)


@pytest.fixture(scope="module")
def prior():
    return CodePrior(**SIZES)


@pytest.fixture(scope="module")
def labelled(prior):
    return jax.jit(prior.init)(jax.random.key(0), *make_inputs())["params"]


@pytest.fixture(scope="module")
def params(labelled):
    # Larger than at the start, so that a wrong position shows.
    return jax.tree.map(lambda leaf: 1.5 * leaf, remove_logical_axes(labelled))


@pytest.fixture(scope="module")
def whole(prior, params):
    return jax.jit(lambda *inputs: prior.apply({"params": params}, *inputs))


@pytest.mark.parametrize("tokens", [4, pytest.param(2, marks=pytest.mark.thorough)])
def test_step_by_step_logits_are_those_of_the_whole_sequence(prior, params, whole, tokens):
    conditions, similarity, codes = make_inputs(tokens=tokens)
    expected = whole(conditions, similarity, codes)
    assert expected.codes.shape == (BATCH, 5, 7) and expected.similarity.shape == (BATCH, 6)

    def apply(method, *inputs):
        return prior.apply({"params": params}, *inputs, method=method)

    @jax.jit
    def decode(conditions, similarity, codes):
        state, of_similarity = apply("begin", conditions)
        state, first = apply("after_similarity", state, similarity)

        def step(state, told):
            return apply("after_code", state, *told)

        _, others = jax.lax.scan(step, state, (codes.T[:-1], jnp.arange(4)))
        return of_similarity, jnp.concatenate([first[:, None], others.swapaxes(0, 1)], axis=1)

    of_similarity, of_codes = decode(conditions, similarity, codes)
    np.testing.assert_allclose(of_similarity, expected.similarity, atol=1e-5)
    np.testing.assert_allclose(of_codes, expected.codes, atol=1e-5)


def test_a_code_changes_only_what_follows_it(whole):
    conditions, similarity, codes = make_inputs()
    before = whole(conditions, similarity, codes)
    for number in range(5):
        after = whole(conditions, similarity, codes.at[:, number].set((codes[:, number] + 1) % 7))
        changed = np.abs(after.codes - before.codes).max(axis=(0, 2)) > 1e-4
        np.testing.assert_array_equal(changed, np.arange(5) > number)
        np.testing.assert_array_equal(after.similarity, before.similarity)
    after = whole(conditions, (similarity + 1) % 6, codes)
    assert (np.abs(after.codes - before.codes).max(axis=(0, 2)) > 1e-4).all()
    np.testing.assert_array_equal(after.similarity, before.similarity)


def test_padding_and_absent_vectors_are_not_read(whole):
    conditions, similarity, codes = make_inputs()
    before = whole(conditions, similarity, codes)
    text, vector = conditions.text, conditions.text_vector
    noisy = jnp.where(text.mask[:, :, None], text.embeddings, 9.0)
    other = jnp.where(vector.present[:, None], vector.values, 9.0)
    after = whole(
        Conditions(text=Text(noisy, text.mask), text_vector=Vectors(other, vector.present)), similarity, codes
    )
    np.testing.assert_array_equal(after.codes, before.codes)
    # Their nulls differ from them, and are the same for all.
    nulls = whole(null(conditions), similarity[:1].repeat(3), codes[:1].repeat(3, axis=0))
    np.testing.assert_allclose(nulls.codes, np.repeat(nulls.codes[:1], 3, axis=0), atol=1e-5)
    assert np.abs(nulls.similarity - before.similarity).max(axis=1).min() > 1e-3


@pytest.mark.thorough
@pytest.mark.parametrize("changes", [{"scan": True, "remat": "blocks"}, {"remat": "elementwise"}])
def test_a_loop_with_recomputation_has_the_same_gradient(params, changes):
    inputs = make_inputs()

    def gradient(**changes):
        network = CodePrior(**SIZES, **changes)
        return jax.jit(jax.grad(lambda params: network.apply({"params": params}, *inputs, train=True).codes.std()))(
            params
        )

    for one, other in zip(*map(jax.tree.leaves, (gradient(), gradient(**changes))), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_kernels_and_tables_name_their_axes(labelled):
    axes = jax.tree.leaves(axes_of(labelled), is_leaf=lambda leaf: leaf is None or isinstance(leaf, tuple))
    assert not any(UNNAMED in leaf for leaf in axes if leaf)
    # Of each of two layers three projections, one output, two of the perceptron; two tables, positions, four others.
    assert sum(leaf is not None for leaf in axes) == 2 * 6 + 3 + 4


def test_bfloat16_is_near_float32(params, whole):
    inputs = make_inputs()
    expected = whole(*inputs).codes
    found = jax.jit(CodePrior(**SIZES, dtype=jnp.bfloat16).apply)({"params": params}, *inputs).codes
    assert found.dtype == jnp.float32
    assert np.abs(found - expected).mean() < 0.05 * np.abs(expected).mean()


@pytest.mark.thorough
@pytest.mark.parametrize("scan", [False, True])
def test_dropout_is_of_training_alone(params, whole, scan):
    network, inputs = CodePrior(**SIZES, dropout=0.5, scan=scan), make_inputs()
    apply = jax.jit(
        lambda key, train: network.apply({"params": params}, *inputs, train=train, rngs={"dropout": key}).codes,
        static_argnums=1,
    )
    one, other = (apply(jax.random.key(number), True) for number in (1, 2))
    assert np.abs(one - other).max() > 1e-2
    np.testing.assert_allclose(apply(jax.random.key(1), False), whole(*inputs).codes, atol=1e-5)


def test_wrong_sizes_and_conditions_are_told(prior, params):
    for wrong in ({"heads": 3}, {"codes": 0}, {"layers": 0}, {"dropout": 1.0}, {"remat": "attention"}):
        with pytest.raises(UserError):
            CodePrior(**(SIZES | wrong))
    conditions, similarity, codes = make_inputs(tokens=6)
    for wrong in (conditions, conditions._replace(text_vector=None), Conditions()):
        with pytest.raises(UserError):
            prior.apply({"params": params}, wrong, similarity, codes)
    with pytest.raises(ValueError, match="5"):
        prior.apply({"params": params}, *make_inputs()[:2], codes[:, :4])
