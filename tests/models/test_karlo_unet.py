"""Karlo's U-Nets: what they read, and which of the two super-resolution networks runs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.array_types import LowResolution, Text
from imagen_jax.diffusion.conditions import Conditions, Labels, Vectors
from imagen_jax.errors import UserError
from imagen_jax.models.karlo_unet import KarloUNet, KarloUpsampler
from imagen_jax.sharding.axes import axes_of, remove_logical_axes, unnamed_parameters
from tests.drawn_params import draw_params

NOISY = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
STEPS = jnp.asarray([900.0, 3.0])
TEXT = Text(jax.random.normal(jax.random.key(1), (2, 3, 6)), jnp.asarray([[1, 1, 1], [1, 0, 0]], bool))
VECTOR = Vectors(jax.random.normal(jax.random.key(2), (2, 6)), jnp.asarray([True, False]))
TOLD = Conditions(text=TEXT, text_vector=VECTOR, image_vector=VECTOR)
LOW = Conditions(low_resolution=LowResolution(NOISY[:, ::2, ::2], jnp.zeros(2)))
DECODER = KarloUNet((8,), (1,), (True,), text_channels=6, vector_tokens=2, head_channels=4)
UPSAMPLER = KarloUpsampler((8,), (1,))


def params_for(network, told):
    labelled = jax.eval_shape(network.init, jax.random.key(0), NOISY, STEPS, told)["params"]
    assert not unnamed_parameters(axes_of(labelled))
    return draw_params(remove_logical_axes(labelled))


def change(before, after):
    return np.abs(np.asarray(after) - np.asarray(before)).max(axis=(1, 2, 3))


def test_the_decoder_reads_what_it_is_told_and_nothing_else():
    params = params_for(DECODER, TOLD)
    run = jax.jit(lambda told: DECODER.apply({"params": params}, NOISY, STEPS, told))
    before = run(TOLD)
    assert before.shape == (2, 8, 8, 6)
    for name in ("text_vector", "image_vector"):
        changed = change(before, run(TOLD._replace(**{name: VECTOR._replace(values=VECTOR.values + 1)})))
        assert changed[0] > 1e-3 and changed[1] == 0, "only the example that has the vector"
    hidden = TEXT.embeddings.at[1, 1:].set(9.0)
    np.testing.assert_allclose(run(TOLD._replace(text=Text(hidden, TEXT.mask))), before, atol=1e-5)
    assert np.all(change(before, run(TOLD._replace(text=Text(-TEXT.embeddings, TEXT.mask)))) > 1e-3)


def test_the_tokens_of_the_image_are_seen_without_any_text():
    """Example 1 has no token of text, and its vector is the learned one."""
    params = params_for(DECODER, TOLD)
    empty = TOLD._replace(text=Text(TEXT.embeddings, TEXT.mask.at[1].set(False)))
    kernel = params["conditioning"]["image_vector_tokens"]
    moved = params | {
        "conditioning": params["conditioning"] | {"image_vector_tokens": kernel | {"bias": kernel["bias"] + 1}}
    }
    run = jax.jit(lambda params: DECODER.apply({"params": params}, NOISY, STEPS, empty))
    assert np.all(change(run(params), run(moved)) > 1e-3)


@pytest.mark.thorough
def test_the_second_network_takes_the_last_step_alone():
    params = params_for(UPSAMPLER, LOW)
    other = params | {"last": jax.tree.map(lambda array: array + 0.1, params["last"])}
    sample = jax.jit(lambda params, step: UPSAMPLER.apply({"params": params}, NOISY, jnp.full(2, step), LOW))
    assert np.array_equal(sample(params, 166.0), sample(other, 166.0))
    assert np.all(change(sample(params, 0.0), sample(other, 0.0)) > 1e-3)
    train = jax.jit(
        lambda params: UPSAMPLER.apply({"params": params}, NOISY, jnp.asarray([0.0, 166.0]), LOW, train=True)
    )
    of_first, of_last = sample(params, 166.0)[1], sample(params, 0.0)[0]
    np.testing.assert_allclose(train(params), jnp.stack([of_last, of_first]), atol=1e-5)


def test_what_they_do_not_take_is_refused():
    label = Conditions(label=Labels(jnp.zeros(2, int), jnp.ones(2, bool)))
    for network in (DECODER, UPSAMPLER):
        for arguments in ({"conditions": label}, {"estimate": NOISY}):
            with pytest.raises(UserError):
                jax.eval_shape(lambda n=network, a=arguments: n.init(jax.random.key(0), NOISY, STEPS, **a))


@pytest.mark.thorough
def test_karlos_sizes():
    """unclip_facts: 885.4M and 7.9M of projections; 691.6M for each super-resolution network."""
    decoder = KarloUNet((320, 640, 960, 1280), (3,) * 4, (False, True, True, True))
    upsampler = KarloUpsampler((320, 640, 960, 1280), (3,) * 4)
    large = jnp.zeros((1, 64, 64, 3))
    text = Text(jnp.zeros((1, 77, 768)), jnp.ones((1, 77), bool))
    vector = Vectors(jnp.zeros((1, 768)), jnp.ones(1, bool))
    told = Conditions(text=text, text_vector=vector, image_vector=vector)

    def millions(network, told):
        shapes = jax.eval_shape(network.init, jax.random.key(0), large, jnp.zeros(1), told)
        return sum(leaf.size for leaf in jax.tree.leaves(remove_logical_axes(shapes))) / 1e6

    assert millions(decoder, told) == pytest.approx(885.4 + 7.9, abs=0.1)
    low = Conditions(low_resolution=LowResolution(large, jnp.zeros(1)))
    assert millions(upsampler, low) == pytest.approx(2 * 691.6, abs=0.2)
