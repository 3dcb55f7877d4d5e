"""Operations: against counts by hand, and convolutions against what they do to ones."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.array_types import Text
from imagen_jax.forecast.flops import compiled_operations, count_operations, count_pairs
from imagen_jax.models.attention import SelfAttention
from imagen_jax.models.layers import convolution


def zeros(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def square(x):
    return x @ x


def test_a_product_has_two_operations_for_each_multiply_add():
    assert count_operations(jnp.matmul, zeros(3, 4), zeros(4, 5)) == 2 * 3 * 4 * 5
    assert count_operations(lambda a, b: jnp.einsum("bhij,bhkj->bhik", a, b), zeros(2, 3, 4, 5), zeros(2, 3, 6, 5)) == (
        2 * (2 * 3 * 4 * 6) * 5
    )


def test_taps_outside_the_image_do_not_count():
    """Of 4 positions and 3 taps the outermost two miss."""
    assert count_pairs(pixels=4, taps=3, outputs=4, before=1) == 10
    assert count_pairs(pixels=4, taps=3, outputs=2, before=1, stride=2) == 5
    assert count_pairs(pixels=4, taps=3, outputs=2, before=-1) == 5, "cropped before the first, padded after the last"
    layer = convolution(8, dtype=jnp.float32, name="layer")
    params = jax.eval_shape(lambda: layer.init(jax.random.key(0), jnp.zeros((2, 4, 4, 6))))
    assert count_operations(layer.apply, params, zeros(2, 4, 4, 6)) == 2 * (2 * 8 * 6) * 10 * 10


CONVOLUTIONS = {
    "same": {"window_strides": (1, 1), "padding": ((1, 1), (1, 1))},
    "strided": {"window_strides": (2, 3), "padding": ((1, 1), (1, 0))},
    "dilated image": {"window_strides": (1, 1), "padding": ((1, 2), (2, 1)), "lhs_dilation": (2, 3)},
    "dilated taps": {"window_strides": (2, 1), "padding": ((3, 2), (0, 2)), "rhs_dilation": (2, 3)},
    "in groups": {"window_strides": (1, 1), "padding": ((1, 1), (1, 1)), "feature_group_count": 2},
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_a_convolution_of_ones_adds_up_its_multiply_adds(name):
    """Each multiply-add of ones adds one to the result."""
    options = CONVOLUTIONS[name]
    image = jnp.ones((2, 7, 9, 4))
    kernel = jnp.ones((3, 3, 4 // options.get("feature_group_count", 1), 6))

    def convolve(image, kernel):
        return jax.lax.conv_general_dilated(image, kernel, dimension_numbers=("NHWC", "HWIO", "NHWC"), **options)

    assert count_operations(convolve, image, kernel) == 2 * int(convolve(image, kernel).sum())


@pytest.mark.parametrize("name", ["same", "strided", "in groups"])
def test_a_gradient_of_ones_adds_up_its_multiply_adds(name):
    options = CONVOLUTIONS[name]
    image = jnp.ones((2, 7, 9, 4))
    kernel = jnp.ones((3, 3, 4 // options.get("feature_group_count", 1), 6))

    def convolve(image, kernel):
        return jax.lax.conv_general_dilated(image, kernel, dimension_numbers=("NHWC", "HWIO", "NHWC"), **options)

    def gradients(image, kernel):
        return jax.vjp(convolve, image, kernel)[1](jnp.ones(convolve(image, kernel).shape))

    done = sum(int(gradient.sum()) for gradient in gradients(image, kernel)) + 2 * int(convolve(image, kernel).sum())
    assert count_operations(gradients, image, kernel) == 2 * done


def test_self_attention_by_hand():
    positions, tokens, channels, width = 16, 5, 8, 12
    layer = SelfAttention(heads=2)
    x, text = jnp.zeros((1, 4, 4, channels)), Text(jnp.zeros((1, tokens, width)), jnp.ones((1, tokens), bool))
    params = layer.init(jax.random.key(0), x, text)
    query_key_value_out = 4 * positions * channels**2
    text_key_value = 2 * tokens * width * channels
    scores_and_means = 2 * positions * (positions + tokens) * channels
    assert count_operations(layer.apply, params, x, text) == 2 * (
        query_key_value_out + text_key_value + scores_and_means
    )


def test_what_is_inside_counts():
    once = 2 * 4**3
    assert count_operations(jax.jit(square), zeros(4, 4)) == once
    assert count_operations(lambda x: jax.lax.scan(lambda c, _: (square(c), None), x, length=7)[0], zeros(4, 4)) == (
        7 * once
    )
    assert count_operations(lambda x: jax.lax.cond(True, square, lambda x: square(square(x)), x), zeros(4, 4)) == (
        2 * once
    )
    assert count_operations(lambda x: nn.relu(square(x)), zeros(4, 4)) == once

    def total(x):
        return jax.checkpoint(lambda x: jnp.sin(square(x)))(x).sum()

    assert count_operations(jax.grad(total), zeros(4, 4)) == (1 + 1 + 2) * once, "forward, again, backward"


def test_a_loop_of_unknown_length_is_not_guessed():
    with pytest.raises(ValueError, match="scan"):
        count_operations(lambda x: jax.lax.while_loop(lambda x: x.sum() < 9, square, x), zeros(4, 4))
    assert count_operations(lambda x: jax.lax.while_loop(lambda x: x < 9, lambda x: x + 1, x), zeros()) == 0


def test_the_compiler_counts_a_product_as_we_do():
    assert compiled_operations(jnp.matmul, zeros(64, 32), zeros(32, 16)) == 2 * 64 * 32 * 16
    assert np.isclose(compiled_operations(lambda x: x + 1.0, zeros(64, 32)), 64 * 32)
