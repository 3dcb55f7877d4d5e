"""CLIP's image tower as a residual network (He et al. 2016, arXiv 1512.03385; Radford et al. 2021, section 2.4).

    image -> three convolutions, half the side -> average pool -> four stages of bottlenecks -> attention pool

It differs from ResNet as OpenAI's does:

- The stem has three 3×3 convolutions, and shortcuts average before they project (He et al. 2018, arXiv 1812.01187).
- Convolutions have stride 1. A mean over 2×2 pixels before them halves the side (Zhang 2019, arXiv 1904.11486).
- The last pool is an attention whose query is the mean of all positions.

**Normalisation.** Batch normalisation needs statistics of the batch in training and averages of them later, which are
state besides parameters and gradients. There are two choices, and neither is batch normalisation as OpenAI trained it:

- ``frozen_batch``: mean and variance are parameters without gradient, with their values from the imported file.
  Use it for imported weights, also to fine-tune them. From scratch it is only an affine map, so training is hard.
- ``group``: group normalisation (Wu & He 2018, arXiv 1803.08494), for training from scratch. No published CLIP has it.

The last norm of each block starts with scale 0, and the attention pool with standard deviation width^-1/2, as in
OpenAI's code. Convolutions start with that of their number of inputs.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from imagen_jax.array_types import DTYPES, Images
from imagen_jax.clip.transformer import (
    REMAT,
    Embeddings,
    attend,
    check_tensor_axis,
    dense,
    normal,
)
from imagen_jax.errors import UserError, lookup
from imagen_jax.sharding.axes import constrain, gather, gathering, with_logical_axes

FeatureMap = Float[Array, "batch height width channels"]
NewFeatureMap = Float[Array, "batch new_height new_width new_channels"]

EXPANSION = 4
"""The outputs of a bottleneck for each channel inside."""

STRIDE = 32
"""The ratio of the side of an image to that of the last feature map."""

EPSILON = 1e-5
GROUPS = 32
LECUN_NORMAL: Any = nn.initializers.lecun_normal()
CONVOLUTION_AXES = ("taps", "taps", "channels", "channels")
POSITION_AXES = ("places", "channels")


class FrozenBatchNorm(nn.Module):
    """Batch normalisation with given statistics (Ioffe & Szegedy 2015, arXiv 1502.03167, equation 10), in float32.

    Attributes:
        zero: whether the scale starts at 0, so that a residual branch starts as nothing.
    """

    zero: bool = False

    @nn.compact
    def __call__(self, x: FeatureMap) -> FeatureMap:
        """Returns ``(x - mean) / sqrt(variance + 1e-5) · scale + bias``. Mean and variance get no gradient."""
        shape = (x.shape[-1],)
        ones, zeros = nn.initializers.ones_init(), nn.initializers.zeros_init()
        scale = self.param("scale", zeros if self.zero else ones, shape)
        bias = self.param("bias", zeros, shape)
        mean = jax.lax.stop_gradient(self.param("mean", zeros, shape))
        variance = jax.lax.stop_gradient(self.param("variance", ones, shape))
        factor = scale * jax.lax.rsqrt(variance + EPSILON)
        offset = bias - mean * factor
        return (x * factor[None, None, None] + offset[None, None, None]).astype(x.dtype)


class GroupNorm(nn.GroupNorm):
    """Group normalisation in float32, with at most ``GROUPS`` groups. It keeps the dtype of its input."""

    num_groups: int | None = GROUPS
    epsilon: float = EPSILON
    dtype: Any = jnp.float32

    def __call__(self, x: Any, *, mask: Any = None) -> Any:
        """Returns the normalised features."""
        return super().__call__(x, mask=mask).astype(x.dtype)


def make_norm(kind: str, channels: int, name: str, zero: bool = False) -> nn.Module:
    """Returns a norm of one of the ``NORMS``."""
    if kind == "frozen_batch":
        return FrozenBatchNorm(zero, name=name)
    groups = next(groups for groups in range(min(GROUPS, channels), 0, -1) if channels % groups == 0)
    scale_init = nn.initializers.zeros_init() if zero else nn.initializers.ones_init()
    return GroupNorm(groups, scale_init=scale_init, name=name)


NORMS = {"frozen_batch": "statistics of a file", "group": "group normalisation"}


def convolution(channels: int, size: int, stride: int, dtype: Any, name: str) -> nn.Conv:
    """Returns a convolution without bias that keeps the side, or divides it by ``stride``."""
    return nn.Conv(
        channels,
        (size, size),
        (stride, stride),
        padding=[(size // 2, size // 2)] * 2,
        use_bias=False,
        kernel_init=with_logical_axes(LECUN_NORMAL, CONVOLUTION_AXES),
        promote_dtype=gathering(CONVOLUTION_AXES),
        dtype=dtype,
        name=name,
    )


def halve(x: FeatureMap) -> NewFeatureMap:
    """Returns the mean of each block of 2×2 pixels. A last odd row or column is left out, as in OpenAI's code."""
    batch, height, width, channels = x.shape
    x = x[:, : height // 2 * 2, : width // 2 * 2]
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels).mean(axis=(2, 4))


class Bottleneck(nn.Module):
    """A residual block: 1×1, 3×3 and 1×1 convolution, each with a norm.

    Attributes:
        channels: the number of channels inside; there are ``EXPANSION`` times as many outputs.
        halves: whether it halves the side.
        norm: a key of ``NORMS``.
        dtype: the compute dtype, a key of ``array_types.DTYPES``.
    """

    channels: int
    halves: bool
    norm: str
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: FeatureMap) -> NewFeatureMap:
        """Returns the features after the block."""
        dtype, outputs = DTYPES[self.dtype], EXPANSION * self.channels
        inside = convolution(self.channels, 1, 1, dtype, "conv_1")(x)
        inside = nn.relu(make_norm(self.norm, self.channels, "norm_1")(inside))
        inside = convolution(self.channels, 3, 1, dtype, "conv_2")(inside)
        inside = nn.relu(make_norm(self.norm, self.channels, "norm_2")(inside))
        inside = convolution(outputs, 1, 1, dtype, "conv_3")(halve(inside) if self.halves else inside)
        inside = make_norm(self.norm, outputs, "norm_3", zero=True)(inside)
        if self.halves or x.shape[-1] != outputs:
            x = convolution(outputs, 1, 1, dtype, "skip")(halve(x) if self.halves else x)
            x = make_norm(self.norm, outputs, "skip_norm")(x)
        return constrain(nn.relu(x + inside), "batch", "height", "width", "channels")


class AttentionPool(nn.Module):
    """Pools a feature map by attention: the query is the mean of all positions, the keys are it and all positions.

    Attributes:
        heads: the number of heads; a divisor of the channels.
        embedding: the size of the output.
        dtype: the compute dtype, a key of ``array_types.DTYPES``.
    """

    heads: int
    embedding: int
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: FeatureMap) -> Embeddings:
        """Returns one vector for each image."""
        dtype, (batch, height, width, channels) = DTYPES[self.dtype], x.shape
        deviation = channels**-0.5
        x = x.reshape(batch, height * width, channels)
        x = jnp.concatenate([x.mean(axis=1, keepdims=True), x], axis=1)
        start = with_logical_axes(normal(deviation), POSITION_AXES)
        positions: Any = self.param("positions", start, x.shape[1:])
        x = x + gather(positions, POSITION_AXES, x.dtype)[None]

        def project(name: str, of: jax.Array) -> Float[Array, "batch heads places head_width"]:
            projected = dense(channels, ("channels", "heads"), deviation, dtype=dtype, name=name)(of)
            by_head = projected.reshape(batch, -1, self.heads, channels // self.heads)
            return constrain(by_head, "batch", "places", "heads", "head_channels").swapaxes(1, 2)

        check_tensor_axis(self.heads)
        gathered = attend(project("query", x[:, :1]), project("key", x), project("value", x))
        output = dense(self.embedding, ("heads", "channels"), deviation, dtype=dtype, name="output")
        return output(gathered.reshape(batch, channels))


class ResNet(nn.Module):
    """``tower.apply({"params": params}, images)``: normalised images to embeddings, which have any length.

    Attributes:
        resolution: the side of an image, in pixels; a multiple of ``STRIDE``.
        layers: the number of blocks in each of the four stages.
        width: the channels inside the blocks of the first stage, half of them in the first convolutions; even.
        heads: the number of heads of the attention pool; a divisor of ``32 · width``.
        embedding: the size of the embeddings.
        norm: a key of ``NORMS``; the module's docstring says when to use which.
        remat: a key of ``transformer.REMAT``.
        dtype: the compute dtype, a key of ``array_types.DTYPES``. The embeddings are float32.

    Raises:
        UserError: the fields contradict each other.
    """

    resolution: int
    layers: tuple[int, ...]
    width: int
    heads: int
    embedding: int
    norm: str = "frozen_batch"
    remat: str = "none"
    dtype: str = "float32"

    def __post_init__(self) -> None:
        lookup(NORMS, self.norm, "norm")
        lookup(REMAT, self.remat, "remat")
        lookup(DTYPES, self.dtype, "dtype")
        if len(self.layers) != 4 or min(self.layers) < 1:
            raise UserError(f"a ResNet has layers={self.layers}: give the number of blocks of its four stages")
        if self.resolution < 1 or self.resolution % STRIDE:
            raise UserError(f"a ResNet has resolution={self.resolution}: give a multiple of {STRIDE}")
        if self.width < 2 or self.width % 2 or self.embedding < 1:
            raise UserError(f"a ResNet has width={self.width} and embedding={self.embedding}: give an even width")
        if self.heads < 1 or 8 * EXPANSION * self.width % self.heads:
            raise UserError(f"{self.heads} heads do not divide {8 * EXPANSION * self.width} channels: choose a divisor")
        super().__post_init__()

    def example_input(self) -> np.ndarray:
        """Returns an input of one image, for ``init``."""
        return np.zeros((1, self.resolution, self.resolution, 3), np.float32)

    @nn.compact
    def __call__(self, images: Images, train: bool = False) -> Embeddings:
        """Returns the embeddings, ``(batch, embedding)``, float32.

        Args:
            images: ``(batch, resolution, resolution, 3)``, normalised with the CLIP's mean and deviation.
            train: no effect: there is no dropout, and both norms compute the same in training.

        Raises:
            UserError: the images have another size.
        """
        if images.shape[1:] != (self.resolution, self.resolution, 3):
            raise UserError(f"images of shape {images.shape[1:]} do not fit a tower of {self.resolution} pixels")
        dtype = DTYPES[self.dtype]
        x = images.astype(dtype)
        for index, channels in enumerate((self.width // 2, self.width // 2, self.width), start=1):
            x = convolution(channels, 3, 2 if index == 1 else 1, dtype, f"stem_conv_{index}")(x)
            x = nn.relu(make_norm(self.norm, channels, f"stem_norm_{index}")(x))
        x = halve(x)
        policy = REMAT[self.remat]
        block = Bottleneck if policy is None else nn.remat(Bottleneck, policy=policy)
        for stage, blocks in enumerate(self.layers):
            for index in range(blocks):
                halves = stage > 0 and index == 0
                name = f"stage_{stage + 1}_block_{index}"
                x = block(self.width * 2**stage, halves, self.norm, self.dtype, name=name)(x)
        return AttentionPool(self.heads, self.embedding, self.dtype, name="pool")(x).astype(jnp.float32)
