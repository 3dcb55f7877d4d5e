"""The residual block of both U-Nets."""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike

from imagen_jax.errors import lookup
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


def scale_and_shift(h: FeatureMap, entering: NewFeatureMap, norm: Activation) -> FeatureMap:
    """Normalises, then scales and shifts by the two halves of the embedding's channels."""
    # The channels are not sharded here, nor in the gradients: sharding the joint axis would put scales on some devices
    # and shifts on others.
    scale, shift = (constrain(half, "batch", "height", "width", "channels") for half in jnp.split(entering, 2, axis=-1))
    return norm(h) * (1 + scale) + shift


def add(h: FeatureMap, entering: NewFeatureMap, norm: Activation) -> FeatureMap:
    """Adds the embedding, then normalises in groups of at least four channels (Ho et al. 2020, appendix B)."""
    return norm(h + entering)


ENTRIES = {"scale_shift": scale_and_shift, "addition": add}
"""How the embedding enters a block: the allowed values of ``embedding_enters``."""


class ResidualBlock(nn.Module):
    """GroupNorm, swish and a 3×3 convolution, twice, with a 1×1 convolution on the skip if the width changes.

    The embedding provides a scale and a shift after the second normalisation (adaptive group normalisation, Dhariwal &
    Nichol 2021, section 3.1), or is added before it. As in BigGAN and ADM, the block can resample inside, on both
    branches. The second convolution starts at zero.

    Attributes:
        channels: the number of output channels.
        resample: "none", "down" or "up", a name in ``layers.RESAMPLERS``.
        dropout: the rate before the second convolution, in [0, 1).
        activation: an elementwise function; swish in ADM and Imagen.
        embedding_activation: the function applied to the embedding before its projection.
        scale: the factor of the sum of both branches.
        embedding_enters: "scale_shift" for adaptive group normalisation, or "addition".
        dtype: the compute dtype.
    """

    channels: int
    resample: str = "none"
    dropout: float = 0.0
    activation: Activation = nn.swish
    embedding_activation: Activation = nn.swish
    scale: float = 1.0
    embedding_enters: str = "scale_shift"
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: FeatureMap, embedding: Embedding, train: bool = False) -> NewFeatureMap:
        resample = RESAMPLERS[self.resample]
        h = resample(self.activation(GroupNorm(name="norm_in")(x)))
        h = convolution(self.channels, outputs="hidden", dtype=self.dtype, name="conv_in")(h)
        h = constrain(h, "batch", "height", "width", "hidden")
        enter = lookup(ENTRIES, self.embedding_enters, "network.embedding_enters")
        # A group of one channel would subtract from it what has been added to it.
        groups = 32 if enter is scale_and_shift else min(32, max(1, self.channels // 4))
        norm = GroupNorm(groups, name="norm_out")
        width = self.channels * (2 if enter is scale_and_shift else 1)
        entering = dense(width, dtype=self.dtype, name="embedding")(self.embedding_activation(embedding))
        h = self.activation(enter(h, constrain(entering, "batch", "channels")[:, None, None, :], norm))
        h = nn.Dropout(self.dropout, deterministic=not train)(h)
        h = convolution(self.channels, zero=True, inputs="hidden", dtype=self.dtype, name="conv_out")(h)
        skip = resample(x)
        if x.shape[-1] != self.channels:
            skip = convolution(self.channels, size=1, dtype=self.dtype, name="skip")(skip)
        return constrain((skip + h) * self.scale, "batch", "height", "width", "channels")
