"""The small layers and functions of both U-Nets."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from imagen_jax.errors import UserError
from imagen_jax.models.convolutions import convolve
from imagen_jax.sharding.axes import gathering, with_logical_axes

FeatureMap = Float[Array, "batch height width channels"]
NewFeatureMap = Float[Array, "batch new_height new_width new_channels"]
"""The output of a layer that may change the resolution or the width."""

Activation = Callable[[jax.Array], jax.Array]

Embedding = Float[Array, "batch embedding"]

# Flax's types do not say that initializers can be hashed, which the cache of ``with_logical_axes`` needs.
LECUN_NORMAL: Any = nn.initializers.lecun_normal()
ZEROS: Any = nn.initializers.zeros_init()


class GroupNorm(nn.Module):
    """Group normalisation with at most ``groups`` groups, in float32 for every compute dtype."""

    groups: int = 32

    @nn.compact
    def __call__(self, x: FeatureMap) -> FeatureMap:
        groups = next(g for g in range(min(self.groups, x.shape[-1]), 0, -1) if x.shape[-1] % g == 0)
        return NormalisedGroups(groups, name="norm")(x.astype(jnp.float32)).astype(x.dtype)


class NormalisedGroups(nn.Module):
    """Normalises groups of channels to mean 0 and variance 1 over all pixels (Wu & He 2018, equation 1), and scales.

    It computes the same as Linen's GroupNorm. It averages over the pixels of each channel first, and then over the few
    channels of a group, which is faster on a CPU than both at once.
    """

    groups: int
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: FeatureMap) -> FeatureMap:
        channels = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones_init(), (channels,))
        bias = self.param("bias", nn.initializers.zeros_init(), (channels,))

        mean = average_groups(x.mean(axis=(1, 2)), self.groups)
        variance = jnp.maximum(average_groups(jnp.square(x).mean(axis=(1, 2)), self.groups) - jnp.square(mean), 0.0)
        factor = jax.lax.rsqrt(variance + self.epsilon) * scale[None]
        return (x - mean[:, None, None]) * factor[:, None, None] + bias[None, None, None]


def average_groups(of_channels: Float[Array, "batch channels"], groups: int) -> Float[Array, "batch channels"]:
    """Replaces the value of each channel by the mean over its group of channels."""
    in_groups = of_channels.reshape(of_channels.shape[0], groups, -1)
    return jnp.broadcast_to(in_groups.mean(axis=2, keepdims=True), in_groups.shape).reshape(of_channels.shape)


def convolution(
    channels: int,
    size: int = 3,
    stride: int = 1,
    *,
    zero: bool = False,
    inputs: str = "channels",
    outputs: str = "channels",
    dtype: DTypeLike,
    name: str,
) -> nn.Conv:
    """Returns a same-padded convolution layer.

    Args:
        channels: the number of output channels.
        size: the height and width of the kernel.
        stride: the stride in both directions.
        zero: whether to initialise the kernel with zeros, so that a residual branch starts as the identity.
        inputs: the name of the kernel's input axis, see ``sharding.axes``.
        outputs: the name of the kernel's output axis.
        dtype: the compute dtype.
        name: the name of the layer.
    """
    axes = ("taps", "taps", inputs, outputs)
    return nn.Conv(
        channels,
        (size, size),
        (stride, stride),
        padding=[(size // 2, size // 2)] * 2,
        kernel_init=with_logical_axes(ZEROS if zero else LECUN_NORMAL, axes),
        promote_dtype=gathering(axes),
        conv_general_dilated=convolve,
        dtype=dtype,
        name=name,
    )


def dense(
    channels: int,
    *,
    zero: bool = False,
    inputs: str = "channels",
    outputs: str = "channels",
    dtype: DTypeLike,
    name: str | None,
) -> nn.Dense:
    """Returns a dense layer. The arguments are those of ``convolution``; ``name`` is None in ``setup``."""
    axes = (inputs, outputs)
    return nn.Dense(
        channels,
        kernel_init=with_logical_axes(ZEROS if zero else LECUN_NORMAL, axes),
        promote_dtype=gathering(axes),
        dtype=dtype,
        name=name,
    )


def split_into_heads(shape: tuple[int, int], *, dtype: DTypeLike, name: str) -> nn.DenseGeneral:
    """Returns a dense layer from channels to ``shape``: heads, channels of a head."""
    axes = ("channels", "heads", "head_channels")
    return nn.DenseGeneral(
        shape, kernel_init=with_logical_axes(LECUN_NORMAL, axes), promote_dtype=gathering(axes), dtype=dtype, name=name
    )


def average_pool(x: FeatureMap) -> NewFeatureMap:
    """Halves height and width by the mean of 2×2 blocks.

    Raises:
        UserError: the height or the width is odd.
    """
    batch, height, width, channels = x.shape
    if height % 2 or width % 2:
        raise UserError(
            f"{height}×{width} px can't be halved: set --config.stage.resolution to a size that all levels can halve"
        )
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels).mean(axis=(2, 4))


def repeat_pixels(x: FeatureMap) -> NewFeatureMap:
    """Doubles height and width by repeating each pixel (nearest neighbour)."""
    batch, height, width, channels = x.shape
    x = jnp.broadcast_to(x[:, :, None, :, None, :], (batch, height, 2, width, 2, channels))
    return x.reshape(batch, 2 * height, 2 * width, channels)


def pixels_to_channels(x: FeatureMap, size: int) -> NewFeatureMap:
    """Lays ``size``×``size`` blocks of pixels out as channels, row by row: ``(b, h/size, w/size, size²·c)``."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // size, size, width // size, size, channels).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(batch, height // size, width // size, size**2 * channels)


def channels_to_pixels(x: FeatureMap, size: int) -> NewFeatureMap:
    """Inverts ``pixels_to_channels`` (Shi et al. 2016)."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height, width, size, size, channels // size**2).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(batch, height * size, width * size, channels // size**2)


RESAMPLERS: dict[str, Callable[[FeatureMap], NewFeatureMap]] = {
    "none": lambda x: x,
    "down": average_pool,
    "up": repeat_pixels,
}


def enlarge(
    image: Float[Array, "batch low_height low_width image_channels"], like: FeatureMap
) -> Float[Array, "batch height width image_channels"]:
    """Enlarges an image bilinearly to the height and width of ``like``."""
    batch, _, _, channels = image.shape
    return jax.image.resize(image, (batch, like.shape[1], like.shape[2], channels), "bilinear")


def sinusoids(value: Float[Array, " batch"], width: int, longest_period: float = 10_000.0) -> Embedding:
    """Returns cosines and sines of a scalar (Vaswani et al. 2017, section 3.5), ``(batch, width)``; width is even."""
    frequencies = longest_period ** (-jnp.arange(width // 2) / (width // 2))
    angles = value[:, None] * frequencies[None, :]
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)
