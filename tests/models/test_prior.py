"""The diffusion prior: a statement of it in NumPy, what it reads, and what it must not depend on."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from imagen_jax.array_types import Text
from imagen_jax.diffusion.conditions import Conditions, Labels, Vectors, null
from imagen_jax.errors import UserError
from imagen_jax.models.attending import attend
from imagen_jax.models.prior import PriorTransformer
from imagen_jax.sharding.axes import axes_of, remove_logical_axes, unnamed_parameters
from tests.drawn_params import draw_params

HEADS = 2
NETWORK = PriorTransformer(width=16, layers=2, heads=HEADS)
NOISY = jax.random.normal(jax.random.key(0), (2, 6))
LOG_SNR = jnp.asarray([-1.0, 2.0])
TEXT = Text(jax.random.normal(jax.random.key(1), (2, 4, 10)), jnp.asarray([[1, 1, 1, 1], [1, 1, 0, 0]], bool))
VECTOR = Vectors(jax.random.normal(jax.random.key(2), (2, 8)), jnp.asarray([True, False]))
TOLD = Conditions(text=TEXT, text_vector=VECTOR)


def params_for(network, conditions=TOLD, noisy=NOISY):
    """Parameters, none of which is zero."""
    shapes = jax.eval_shape(lambda: network.init(jax.random.key(3), noisy, LOG_SNR, conditions)["params"])
    return draw_params(remove_logical_axes(shapes))


PARAMS = params_for(NETWORK)


@jax.jit
def run(noisy=NOISY, log_snr=LOG_SNR, conditions=TOLD):
    return NETWORK.apply({"params": PARAMS}, noisy, log_snr, conditions)


def state(params, noisy, number, text, text_mask, vector):
    """The network's output for one example, in float64."""
    weights = {path: np.asarray(array, np.float64) for path, array in flatten_dict(params, sep="/").items()}

    def dense(name, x):
        kernel = weights[f"{name}/kernel"].reshape(x.shape[-1], -1)
        return x @ kernel + weights[f"{name}/bias"].reshape(-1)

    def norm(name, x):
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
        return scaled * weights[f"{name}/scale"] + weights[f"{name}/bias"]

    width = len(weights["query"])
    angles = number * 10_000.0 ** (-np.arange(width // 2) / (width // 2))
    hidden = dense("time_hidden", np.concatenate([np.cos(angles), np.sin(angles)]))
    time = dense("time_out", hidden / (1 + np.exp(-hidden)))
    rows = [dense("text_in", text), dense("text_vector_in", vector), time, dense("noisy_in", noisy), weights["query"]]
    x = np.concatenate([np.atleast_2d(row) for row in rows]) + weights["positions"]
    seen = np.tri(len(x), dtype=bool) & np.append(text_mask, [True] * 4)[None]
    for layer in ("layer_0", "layer_1"):
        normalised = norm(f"{layer}/attention_norm", x)
        query, key, value = (
            dense(f"{layer}/{name}", normalised).reshape(len(x), HEADS, -1) for name in ("query", "key", "value")
        )
        scores = np.einsum("qhc,khc->hqk", query, key) / query.shape[-1] ** 0.5
        scores = np.exp(np.where(seen, scores, -np.inf))
        scores /= scores.sum(-1, keepdims=True)
        x = x + dense(f"{layer}/attention_out", np.einsum("hqk,khc->qhc", scores, value).reshape(len(x), -1))
        hidden = dense(f"{layer}/expand", norm(f"{layer}/perceptron_norm", x))
        x = x + dense(f"{layer}/contract", hidden * 0.5 * (1 + np.vectorize(math.erf)(hidden / 2**0.5)))
    return dense("out", norm("norm_out", x[-1]))


def test_output_is_that_of_a_statement_in_numpy():
    times = 1000 * 2 / np.pi * np.arctan(np.exp(-np.asarray(LOG_SNR, np.float64) / 2))
    vectors = [VECTOR.values[0], PARAMS["text_vector_null"]]
    expected = [
        state(PARAMS, *(np.asarray(part[i]) for part in (NOISY, times, TEXT.embeddings, TEXT.mask, vectors)))
        for i in range(2)
    ]
    assert np.std(expected) > 0.1
    np.testing.assert_allclose(run(), expected, atol=2e-5)


def test_padding_and_absent_vectors_are_not_read():
    before = np.asarray(run())
    hidden = Text(TEXT.embeddings.at[1, 2:].set(9.0), TEXT.mask)
    np.testing.assert_allclose(run(conditions=TOLD._replace(text=hidden)), before, atol=1e-6)
    other = VECTOR._replace(values=VECTOR.values + 1)
    changed = np.abs(np.asarray(run(conditions=TOLD._replace(text_vector=other))) - before).max(axis=1)
    assert changed[0] > 1e-3 and changed[1] < 1e-5


def test_the_null_still_tells_the_noisy_vector():
    unconditional = null(TOLD)
    assert np.abs(run(NOISY + 1, conditions=unconditional) - run(conditions=unconditional)).max() > 1e-2


def test_parts_that_are_none_have_no_parameters_and_no_position():
    for conditions, positions in ((Conditions(), 3), (Conditions(text_vector=VECTOR), 4), (Conditions(text=TEXT), 7)):
        params = params_for(NETWORK, conditions)
        assert params["positions"].shape == (positions, 16)
        assert [f"{part}_in" in params for part in ("text", "text_vector")] == [
            conditions.text is not None, conditions.text_vector is not None
        ]  # fmt: skip


def test_a_new_network_returns_zeros_and_each_kernel_names_its_axes():
    output, variables = jax.eval_shape(lambda: NETWORK.init_with_output(jax.random.key(0), NOISY, LOG_SNR, TOLD))
    assert not unnamed_parameters(axes_of(variables["params"])) and output.dtype == jnp.float32
    zeros = PARAMS | {"out": jax.tree.map(jnp.zeros_like, PARAMS["out"])}
    assert not np.any(NETWORK.apply({"params": zeros}, NOISY, LOG_SNR, TOLD))
    made = variables["params"]["out"]["kernel"]
    assert made.value.shape == (16, 6)


def test_each_query_may_have_keys_of_its_own():
    query, key, value = (jax.random.normal(jax.random.key(number), (2, 3, 2, 4)) for number in range(3))
    rows = [attend(query[:, i : i + 1], key[:, : i + 1], value[:, : i + 1]) for i in range(3)]
    seen = jnp.broadcast_to(jnp.tri(3, dtype=bool), (2, 3, 3))
    np.testing.assert_allclose(attend(query, key, value, seen), jnp.concatenate(rows, axis=1), atol=1e-6)


def test_what_it_does_not_take_is_refused():
    label = Labels(jnp.asarray([0, 1]), jnp.ones(2, bool))
    for network, arguments in (
        (NETWORK, {"conditions": Conditions(label=label)}),
        (NETWORK, {"estimate": NOISY}),
        (PriorTransformer(width=16, layers=0, heads=2), {}),
        (PriorTransformer(width=16, layers=1, heads=3), {}),
        (PriorTransformer(width=16, layers=1, heads=2, activation="relu"), {}),
        (PriorTransformer(width=16, layers=1, heads=2, noise_conditioning="sigma"), {}),
    ):
        with pytest.raises(UserError):
            jax.eval_shape(lambda network=network, a=arguments: network.init(jax.random.key(0), NOISY, LOG_SNR, **a))
