"""The residual block of both U-Nets."""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike

from imagen_jax.models.layers import (
    RESAMPLERS,
    Activation,
    Embedding,
    FeatureMap,
    GroupNorm,
    NewFeatureMap,
    convolution,
    dense,
)
from imagen_jax.sharding.axes import constrain


class ResidualBlock(nn.Module):
    """GroupNorm, swish and a 3×3 convolution, twice, with a 1×1 convolution on the skip if the width changes.

    The embedding provides a scale and a shift after the second normalisation (adaptive group normalisation, Dhariwal &
    Nichol 2021, section 3.1). As in BigGAN and ADM, the block can resample inside, on both branches. The second
    convolution starts at zero.

    Attributes:
        channels: the number of output channels.
        resample: "none", "down" or "up", a name in ``layers.RESAMPLERS``.
        dropout: the rate before the second convolution, in [0, 1).
        activation: an elementwise function; swish in ADM and Imagen.
        embedding_activation: the function applied to the embedding before its projection.
        scale: the factor of the sum of both branches.
        dtype: the compute dtype.
    """

    channels: int
    resample: str = "none"
    dropout: float = 0.0
    activation: Activation = nn.swish
    embedding_activation: Activation = nn.swish
    scale: float = 1.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: FeatureMap, embedding: Embedding, train: bool = False) -> NewFeatureMap:
        resample = RESAMPLERS[self.resample]
        h = resample(self.activation(GroupNorm(name="norm_in")(x)))
        h = convolution(self.channels, outputs="hidden", dtype=self.dtype, name="conv_in")(h)
        h = constrain(h, "batch", "height", "width", "hidden")
        scale_shift = dense(2 * self.channels, dtype=self.dtype, name="embedding")(self.embedding_activation(embedding))
        # The channels are not sharded here, nor in the gradients: sharding the joint axis would put scales on some
        # devices and shifts on others.
        scale, shift = (
            constrain(half, "batch", "height", "width", "channels")
            for half in jnp.split(constrain(scale_shift, "batch", "channels")[:, None, None, :], 2, axis=-1)
        )
        h = self.activation(GroupNorm(name="norm_out")(h) * (1 + scale) + shift)
        h = nn.Dropout(self.dropout, deterministic=not train)(h)
        h = convolution(self.channels, zero=True, inputs="hidden", dtype=self.dtype, name="conv_out")(h)
        skip = resample(x)
        if x.shape[-1] != self.channels:
            skip = convolution(self.channels, size=1, dtype=self.dtype, name="skip")(skip)
        return constrain((skip + h) * self.scale, "batch", "height", "width", "channels")
