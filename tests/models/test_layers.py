"""The pieces of the networks against NumPy."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.array_types import Text
from imagen_jax.models.attending import attend
from imagen_jax.models.attention import AttentionPool
from imagen_jax.models.conditioning import log_snr_to_time
from imagen_jax.models.efficient_unet import InputGates, UpsamplingConvolution
from imagen_jax.models.layers import (
    GroupNorm,
    average_pool,
    channels_to_pixels,
    enlarge,
    pixels_to_channels,
    repeat_pixels,
    sinusoids,
)
from imagen_jax.sharding.axes import remove_logical_axes
from tests.reference.imagen_statements import attention, cosine_alpha_sigma
from tests.tiers import thorough_except, thorough_rows_except


def normal(*shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape)


def test_attention_is_softmax_over_the_unmasked_keys():
    query, key, value = normal(1, 3, 2, 4), normal(1, 5, 2, 4, seed=1), normal(1, 5, 2, 4, seed=2)
    mask = jnp.asarray([[True, True, False, True, False]])
    kept = np.asarray(mask[0])
    computed = np.asarray(attend(query, key, value, mask)).reshape(3, 2, 4)
    for head in range(2):
        stated = attention(
            *(np.asarray(array[0, :, head], np.float64) for array in (query, key[:, kept], value[:, kept]))
        )
        np.testing.assert_allclose(computed[:, head], stated, atol=1e-5)


def test_pooled_text_ignores_padding_and_survives_an_empty_mask():
    text = Text(normal(2, 4, 8), jnp.asarray([[True, True, False, False], [False] * 4]))
    pool = AttentionPool(heads=2)
    params = remove_logical_axes(pool.init(jax.random.key(0), text))
    pooled = pool.apply(params, text)
    changed = pool.apply(params, Text(text.embeddings.at[:, 2:].add(3.0), text.mask))
    np.testing.assert_allclose(pooled[0], changed[0], atol=1e-5)
    assert np.all(np.isfinite(pooled))


@pytest.mark.parametrize(
    ("channels", "groups"), thorough_rows_except([(48, 24), (33, 11)], [(64, 32), (48, 24), (6, 6), (33, 11)])
)
def test_group_norm_normalises_each_group(channels, groups):
    x = 3 * normal(2, 4, 4, channels) + 1
    normalised = GroupNorm().apply(GroupNorm().init(jax.random.key(0), x), x)
    by_group = np.asarray(normalised).reshape(2, 16, groups, channels // groups)
    np.testing.assert_allclose(by_group.mean(axis=(1, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(by_group.std(axis=(1, 3)), 1, atol=1e-3)


def test_resampling_by_two():
    x = normal(1, 2, 4, 3)
    np.testing.assert_allclose(average_pool(x)[0, 0, 1], np.asarray(x)[0, :, 2:].mean(axis=(0, 1)), atol=1e-6)
    doubled = np.asarray(repeat_pixels(x))
    assert doubled.shape == (1, 4, 8, 3)
    np.testing.assert_array_equal(doubled, np.repeat(np.repeat(np.asarray(x), 2, axis=1), 2, axis=2))


def test_enlarging_is_bilinear():
    """A ramp stays a ramp, with pixel centres where they belong; nearest neighbour would make stairs."""
    ramp = jnp.broadcast_to(jnp.arange(4.0)[None, None, :, None], (1, 4, 4, 3))
    row = np.asarray(enlarge(ramp, like=jnp.zeros((1, 8, 8, 3))))[0, 3, :, 0]
    np.testing.assert_allclose(row, [0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3], atol=1e-6)


def test_pixels_become_channels_row_by_row_and_come_back():
    image = jnp.arange(4 * 6 * 2.0).reshape(1, 4, 6, 2)
    blocks = pixels_to_channels(image, 2)
    assert blocks.shape == (1, 2, 3, 8)
    corners = [image[0, row, column] for row in (2, 3) for column in (4, 5)]
    assert np.array_equal(blocks[0, 1, 2], jnp.concatenate(corners))
    assert np.array_equal(channels_to_pixels(blocks, 2), image)


def test_input_gates_start_closed_and_weigh_whole_images():
    images = [normal(2, 4, 4, 3), normal(2, 4, 4, 3) + 1]
    inputs, embedding = jnp.concatenate(images, axis=-1), jnp.ones((2, 5))
    params = remove_logical_axes(InputGates(3).init(jax.random.key(0), inputs, embedding))
    assert not np.any(InputGates(3).apply(params, inputs, embedding))
    params["params"]["gates"]["bias"] = jnp.asarray([0.25, -2.0])
    opened = InputGates(3).apply(params, inputs, embedding)
    np.testing.assert_allclose(opened, 0.25 * images[0] - 2 * images[1], atol=1e-5)


@pytest.mark.parametrize("stride", thorough_except([2], [1, 2, 4]))
def test_upsampling_convolution_lays_out_pixels_in_order(stride):
    """A kernel of which only the centre of the first input channel is 1 in output n writes n-th subpixels alone."""
    x = normal(1, 3, 3, 2)
    layer = UpsamplingConvolution(channels=1, stride=stride)
    params = jax.tree.map(jnp.zeros_like, remove_logical_axes(layer.init(jax.random.key(0), x)))
    kernel = jnp.zeros((3, 3, 2, stride**2)).at[1, 1, 0].set(jnp.arange(stride**2))
    params["params"]["conv"]["kernel"] = kernel
    enlarged = np.asarray(layer.apply(params, x))[0, :, :, 0]
    for row in range(3 * stride):
        for column in range(3 * stride):
            subpixel = (row % stride) * stride + column % stride
            assert enlarged[row, column] == pytest.approx(subpixel * float(x[0, row // stride, column // stride, 0]))


@pytest.mark.parametrize("time", [0.05, 0.5, 0.93])
def test_time_of_a_log_snr_undoes_the_cosine_schedule(time):
    alpha, sigma = cosine_alpha_sigma(time)
    log_snr = jnp.asarray([np.log(alpha**2 / sigma**2)], jnp.float32)
    assert float(log_snr_to_time(log_snr)[0]) == pytest.approx(time, abs=1e-5)


def test_sinusoids_have_geometric_frequencies():
    features = np.asarray(sinusoids(jnp.asarray([2.0]), 6, longest_period=100.0))[0]
    angles = 2.0 / 100.0 ** (np.arange(3) / 3)
    np.testing.assert_allclose(features, np.concatenate([np.cos(angles), np.sin(angles)]), atol=1e-6)


SHAPES = [((3, 8, 6, 64), 32), ((2, 5, 1, 24), 24), ((1, 4, 4, 6), 6)]


@pytest.mark.parametrize(
    ("shape", "groups"), [SHAPES[0], *(pytest.param(*case, marks=pytest.mark.thorough) for case in SHAPES[1:])]
)
def test_group_norm_and_its_gradients_equal_linens(shape, groups):
    x = 3.0 + 2.0 * jax.random.normal(jax.random.key(0), shape)
    ours, linens = GroupNorm(), nn.GroupNorm(groups, epsilon=1e-5)
    params = {
        name: 1.0 + jax.random.normal(jax.random.key(number), shape[-1:])
        for number, name in enumerate(("scale", "bias"))
    }

    def loss(apply, params, x):
        return jnp.sum(jnp.sin(apply(params, x)))

    def apply_ours(params, x):
        return ours.apply({"params": {"norm": params}}, x)

    def apply_linens(params, x):
        return linens.apply({"params": params}, x)

    np.testing.assert_allclose(apply_ours(params, x), apply_linens(params, x), atol=2e-5)
    gradients = [jax.grad(loss, argnums=(1, 2))(apply, params, x) for apply in (apply_ours, apply_linens)]
    for one, other in zip(*map(jax.tree.leaves, gradients), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-4)
    assert jax.tree.structure(ours.init(jax.random.key(0), x)["params"]["norm"]) == jax.tree.structure(params)


def test_group_norm_of_a_constant_is_its_bias():
    x = jnp.full((1, 4, 4, 8), 7.0)
    normalised = GroupNorm().apply({"params": {"norm": {"scale": jnp.ones(8), "bias": jnp.arange(8.0)}}}, x)
    np.testing.assert_allclose(normalised, jnp.broadcast_to(jnp.arange(8.0), x.shape), atol=1e-2)
