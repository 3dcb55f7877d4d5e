"""Codes are drawn from the decoder's distributions: the similarity from its top half, each example by its own key."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.errors import UserError
from imagen_jax.sampling.codes import (
    CodeDecoder,
    CodeSettings,
    check_code_settings,
    draw_codes,
    draw_from_top,
    guide_codes,
)

BUCKETS = 5


def chain(table, batch):
    """A Markov chain as a decoder: the logits of the next code are a row of a table, by the last code."""
    table = jnp.asarray(table, jnp.float32)
    return CodeDecoder(
        begin=lambda: (jnp.zeros((), jnp.int32), jnp.broadcast_to(table[0], (batch, BUCKETS))),
        after_similarity=lambda state, similarity: (state + 1, table[similarity]),
        after_code=lambda state, code, number: (state + 1, table[code]),
    )


TABLE = np.random.default_rng(0).normal(size=(BUCKETS, BUCKETS))


def softmax(logits):
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


@pytest.mark.parametrize("share", [0.5, pytest.param(0.15, marks=pytest.mark.thorough), 1.0])
def test_the_top_half_is_that_of_the_distribution(share):
    draws = 40_000
    logits = np.tile(TABLE[1].astype(np.float32), (draws, 1))
    drawn = jax.jit(draw_from_top, static_argnums=2)(jax.random.split(jax.random.key(0), draws), logits, share)
    # The part of each bucket's interval of the cumulative distribution that lies above 1 - share.
    ends = np.cumsum(softmax(TABLE[1]))
    starts = ends - softmax(TABLE[1])
    expected = np.clip(ends - np.maximum(starts, 1 - share), 0, None) / share
    found = np.bincount(drawn, minlength=BUCKETS) / draws
    np.testing.assert_allclose(found, expected, atol=4 * 0.5 / draws**0.5)
    assert (found[expected == 0] == 0).all() and (share == 1.0 or (expected == 0).any())


@pytest.mark.parametrize(("guidance", "temperature"), [(1.0, 1.0), pytest.param(2.0, 0.7, marks=pytest.mark.thorough)])
def test_codes_have_the_distribution_of_the_decoder(guidance, temperature):
    draws, other = 20_000, np.random.default_rng(1).normal(size=(BUCKETS, BUCKETS))
    decoder = guide_codes(chain(TABLE, draws), chain(other, draws), guidance)
    settings = CodeSettings(guidance, temperature, 1.0)
    drawn = jax.jit(lambda keys: draw_codes(decoder, keys, 3, settings))(jax.random.split(jax.random.key(1), draws))
    assert drawn.codes.shape == (draws, 3)
    rows = softmax((guidance * TABLE + (1 - guidance) * other) / temperature)
    # The similarity has neither guidance nor a temperature.
    marginal = softmax(TABLE[0])
    for column in (drawn.similarity, *drawn.codes.T):
        found = np.bincount(column, minlength=BUCKETS) / draws
        np.testing.assert_allclose(found, marginal, atol=5 * 0.5 / draws**0.5)
        marginal = marginal @ rows


def test_an_example_depends_on_its_own_key_alone():
    keys = jax.random.split(jax.random.key(3), 6)
    settings = CodeSettings()
    draw = jax.jit(lambda keys: draw_codes(chain(TABLE, len(keys)), keys, 8, settings))
    whole, part = draw(keys), draw(keys[jnp.array([4, 1])])
    np.testing.assert_array_equal(part.codes, whole.codes[np.array([4, 1])])
    np.testing.assert_array_equal(part.similarity, whole.similarity[np.array([4, 1])])
    assert len({tuple(row) for row in whole.codes.tolist()}) == 6


def test_one_code_needs_no_scan():
    drawn = draw_codes(chain(TABLE, 2), jax.random.split(jax.random.key(0), 2), 1, CodeSettings())
    assert drawn.codes.shape == (2, 1)


@pytest.mark.parametrize(
    "wrong", [{"guidance": float("nan")}, {"temperature": 0.0}, {"top_share": 0.0}, {"top_share": 1.1}]
)
def test_settings_out_of_range_are_refused(wrong):
    (name,) = wrong
    with pytest.raises(UserError, match=name):
        check_code_settings(CodeSettings(**wrong))
    check_code_settings(CodeSettings(guidance=4.0, temperature=0.5, top_share=1.0))
