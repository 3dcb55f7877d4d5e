"""The transformer beside a statement of it in NumPy, its initialisation, and the names of its axes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.errors import UserError
from imagen_jax.models.transformer import Transformer
from imagen_jax.runtime.backend import plain_implementations
from imagen_jax.sharding.axes import axes_of, remove_logical_axes, unnamed_parameters
from tests.drawn_params import draw_params
from tests.reference.transformer_statement import run_transformer
from tests.tiers import thorough_except

STATES = jax.random.normal(jax.random.key(0), (2, 5, 8))
MASK = jnp.asarray([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], bool)


def make(**fields):
    return Transformer(8, layers=2, heads=2, **fields)


def new_params(module, states=STATES):
    return module.init(jax.random.key(1), states)["params"]


def shapes_of(module):
    return jax.eval_shape(lambda: remove_logical_axes(new_params(module)))


PARAMS = draw_params(shapes_of(make()))


@pytest.fixture(scope="module", params=[False, True], ids=["bidirectional", "causal"])
def causal(request):
    return request.param


def test_it_is_the_statement_with_padding_and_without(causal):
    apply = jax.jit(make(causal=causal).apply)
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), PARAMS)
    for mask in (None, MASK):
        states = apply({"params": PARAMS}, STATES, mask)
        for example in range(2):
            there = np.ones(5, bool) if mask is None else np.asarray(mask[example])

            def seen(place, other, there=there):
                return bool(there[other]) and (other <= place or not causal)

            expected = run_transformer(np.asarray(STATES[example], np.float64), params, seen)
            np.testing.assert_allclose(states[example][there], expected[there], atol=1e-5)


@pytest.mark.parametrize("causal", thorough_except([False], [False, True]), indirect=True)
def test_one_loop_and_recomputed_activations_change_nothing(causal):
    def loss(params, **fields):
        return jnp.sum(jnp.square(make(causal=causal, **fields).apply({"params": params}, STATES, MASK)))

    plain = jax.jit(jax.value_and_grad(loss))(PARAMS)
    scanned = jax.jit(jax.value_and_grad(lambda params: loss(params, scan=True, remat="blocks")))(PARAMS)
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=2e-4, atol=2e-4), plain, scanned)


def test_a_cpus_own_way_changes_nothing():
    """Also for several examples with parameters of their own, as SAM on shares has them."""

    def gradients(as_written):
        def loss(params, states):
            return jnp.sum(jnp.square(make(remat="blocks").apply({"params": params}, states, MASK)))

        several = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), PARAMS)
        with plain_implementations(as_written):
            return jax.jit(jax.vmap(jax.grad(loss), (0, None)))(several, STATES)

    jax.tree.map(
        lambda one, other: np.testing.assert_allclose(one, other, rtol=2e-4, atol=2e-4), *map(gradients, (True, False))
    )


@pytest.mark.thorough
def test_dropout_only_in_training():
    def run(key, train, **fields):
        module = make(dropout=0.5, **fields)
        return np.asarray(module.apply({"params": PARAMS}, STATES, None, train, rngs={"dropout": jax.random.key(key)}))

    assert np.array_equal(run(0, False), run(1, False))
    assert not np.allclose(run(0, True), run(1, True))
    assert not np.allclose(run(0, True, scan=True), run(0, False, scan=True))


def test_the_branches_of_a_new_one_keep_the_variance_of_the_stream():
    """Their outputs start with width^-1/2 · (2 layers)^-1/2, and all other kernels as in CLIP."""
    module = Transformer(64, layers=3, heads=4)
    params = jax.jit(lambda: remove_logical_axes(new_params(module, jnp.zeros((1, 2, 64)))))()
    residual = 64**-0.5 * 6**-0.5
    wanted = {"query": 64**-0.5, "attention_out": residual, "expand": 128**-0.5, "contract": residual}
    for name, deviation in wanted.items():
        assert float(params["layer_1"][name]["kernel"].std()) == pytest.approx(deviation, rel=0.1), name


def test_it_names_its_axes_and_computes_in_its_dtype():
    module = make(dtype=jnp.bfloat16, final_norm=False)
    labelled = jax.eval_shape(lambda: new_params(module))
    assert unnamed_parameters(axes_of(labelled)) == [] and "last_norm" not in labelled
    states = module.apply({"params": PARAMS}, STATES)
    assert states.dtype == jnp.bfloat16 and {leaf.dtype for leaf in jax.tree.leaves(labelled)} == {jnp.dtype("float32")}


@pytest.mark.parametrize("fields", [{"heads": 3}, {"width": 6}, {"layers": 0}, {"activation": "gellu"}])
def test_sizes_that_do_not_fit_are_refused(fields):
    with pytest.raises(UserError):
        jax.eval_shape(lambda: new_params(Transformer(**{"width": 8, "layers": 1, "heads": 2, **fields})))
