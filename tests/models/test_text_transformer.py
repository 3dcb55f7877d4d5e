"""GLIDE's text transformer inside a network: a statement in NumPy, padding, the null caption, and its tokens."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import FrozenDict

from imagen_jax.diffusion.conditions import Conditions, TokenSequence, Vectors, drop, null
from imagen_jax.errors import UserError
from imagen_jax.models import UNet
from imagen_jax.models.conditioning import ConditioningEmbedding
from imagen_jax.models.text_transformer import TextTransformer
from imagen_jax.sharding.axes import axes_of, remove_logical_axes, unnamed_parameters
from tests.drawn_params import draw_params
from tests.reference.transformer_statement import linear, run_transformer

SIZES = {"width": 8, "layers": 2, "heads": 2, "context": 6, "vocabulary": 11}
IDS = jnp.asarray([[3, 0, 10, 7], [5, 2, 0, 0]])
MASK = jnp.asarray([[1, 1, 1, 1], [1, 1, 0, 0]], bool)
TOKENS = TokenSequence(IDS, MASK)


def params_of(module, *inputs):
    return draw_params(remove_logical_axes(jax.eval_shape(lambda: module.init(jax.random.key(0), *inputs)["params"])))


def by_statement(params, ids):
    """The states of a caption's positions: its tokens with their positions, then a vector of each padding position."""
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    tokens = [params["tokens"]["embedding"][number] + params["positions"][place] for place, number in enumerate(ids)]
    return run_transformer(np.array([*tokens, *params["padding"][len(ids) :]]), params["transformer"])


def test_it_is_the_statement():
    module = TextTransformer(**SIZES)
    params = params_of(module, TOKENS)
    states = jax.jit(module.apply)({"params": params}, TOKENS)
    assert states.shape == (2, 6, 8)
    for example, ids in enumerate([[3, 0, 10, 7], [5, 2]]):
        np.testing.assert_allclose(states[example], by_statement(params, ids), atol=1e-5)


@pytest.fixture(scope="module")
def embed():
    """The time embedding and the tokens of attention, as functions of the conditions; and the parameters."""
    module = ConditioningEmbedding(8, 16, text_heads=2, vector_tokens=4, text_transformer=FrozenDict(SIZES))
    vector = Vectors(jnp.zeros((2, 5)), jnp.ones(2, bool))
    params = params_of(module, jnp.zeros(2), Conditions(tokens=TOKENS, image_vector=vector))
    apply = jax.jit(module.apply)
    return (lambda conditions: apply({"params": params}, jnp.zeros(2), conditions)), params


def test_the_last_position_enters_the_time_embedding_and_all_are_tokens(embed):
    run, params = embed
    without, _ = run(Conditions())
    embedding, text = run(Conditions(tokens=TOKENS))
    assert text.mask.shape == (2, 6) and text.mask.all(), "attention sees padding, as in GLIDE"
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    for example, ids in enumerate([[3, 0, 10, 7], [5, 2]]):
        states = by_statement(params["text_transformer"], ids)
        np.testing.assert_allclose(text.embeddings[example], states, atol=1e-5)
        added = np.asarray(embedding[example] - without[example])
        np.testing.assert_allclose(added, linear(states[-1], params["tokens_out"]), atol=1e-4)


def test_neither_the_length_of_padding_nor_its_ids_matter(embed):
    run, _ = embed
    wider = TokenSequence(jnp.pad(IDS, ((0, 0), (0, 2)), constant_values=9999), jnp.pad(MASK, ((0, 0), (0, 2))))
    for one, other in zip(
        jax.tree.leaves(run(Conditions(tokens=TOKENS))), jax.tree.leaves(run(Conditions(tokens=wider))), strict=True
    ):
        np.testing.assert_allclose(one, other, atol=1e-6)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(run(Conditions(tokens=wider))))


def test_the_null_caption_is_the_empty_sequence_and_token_0_is_a_token(embed):
    """Token 0 is "!" in CLIP's vocabulary, so padding is not found by its id."""
    run, params = embed
    empty = run(null(Conditions(tokens=TOKENS)))[1]
    states = by_statement(params["text_transformer"], [])
    np.testing.assert_allclose(empty.embeddings, np.stack([states, states]), atol=1e-5)
    dropped = drop(Conditions(tokens=TOKENS), jax.random.key(0), {"tokens": 1.0})
    np.testing.assert_array_equal(run(dropped)[1].embeddings, empty.embeddings)
    exclamation = TokenSequence(jnp.zeros((2, 1), int), jnp.ones((2, 1), bool))
    assert np.abs(run(Conditions(tokens=exclamation))[1].embeddings - empty.embeddings).max() > 1e-2


def test_a_vector_becomes_four_tokens_after_those_of_the_caption(embed):
    run, params = embed
    vector = jax.random.normal(jax.random.key(1), (2, 5))
    there = Conditions(tokens=TOKENS, image_vector=Vectors(vector, jnp.asarray([True, False])))
    text = run(there)[1]
    assert text.embeddings.shape == (2, 10, 8) and text.mask.all()
    np.testing.assert_allclose(text.embeddings[:, :6], run(Conditions(tokens=TOKENS))[1].embeddings, atol=1e-6)
    learned = np.asarray(params["image_vector_null"])
    for example, values in enumerate([np.asarray(vector[0]), learned]):
        expected = linear(values, params["image_vector_tokens"]).reshape(4, 8)
        np.testing.assert_allclose(text.embeddings[example, 6:], expected, atol=1e-5)


@pytest.mark.thorough
def test_a_network_with_it_reads_captions_and_names_its_axes():
    module = UNet(8, (1,), 1, (8,), head_channels=4, text_transformer=SIZES, vector_tokens=4, remat="blocks")
    noisy, level = jnp.ones((2, 8, 8, 3)), jnp.zeros(2)
    vector = Vectors(jnp.ones((2, 5)), jnp.ones(2, bool))
    told = Conditions(tokens=TOKENS, image_vector=vector)
    labelled = jax.eval_shape(lambda: module.init(jax.random.key(0), noisy, level, told)["params"])
    assert unnamed_parameters(axes_of(labelled)) == []
    params = draw_params(remove_logical_axes(labelled))
    apply = jax.jit(module.apply)
    before = apply({"params": params}, noisy, level, told)
    after = apply({"params": params}, noisy, level, told._replace(tokens=TOKENS._replace(ids=IDS.at[0, 1].set(4))))
    changed = np.abs(before - after).max(axis=(1, 2, 3))
    assert changed[0] > 1e-4 and changed[1] == 0
    gradient = jax.jit(
        jax.grad(lambda params: jnp.sum(jnp.square(module.apply({"params": params}, noisy, level, told))))
    )(params)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient["conditioning"]["text_transformer"]))


@pytest.mark.parametrize(
    "sizes",
    [None, {**SIZES, "context": 3}, {**SIZES, "widht": 8}, {"width": 8, "layers": 1}, {**SIZES, "heads": 3}],
    ids=["none", "short context", "unknown key", "missing keys", "heads"],
)
def test_sizes_that_do_not_fit_are_refused(sizes):
    module = UNet(8, (1,), 1, (), text_transformer=sizes)
    with pytest.raises(UserError):
        jax.eval_shape(
            lambda: module.init(jax.random.key(0), jnp.ones((2, 8, 8, 3)), jnp.zeros(2), Conditions(tokens=TOKENS))
        )
