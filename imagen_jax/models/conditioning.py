"""Combines the conditioning of a network into one embedding and one token sequence, and stacks its input images."""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from imagen_jax.array_types import Images, PerExample, SmallImages, Text
from imagen_jax.models.attention import AttentionPool
from imagen_jax.models.layers import Embedding, NewFeatureMap, dense, enlarge, sinusoids


def log_snr_to_time(log_snr: PerExample) -> PerExample:
    """Returns the time in [0, 1] of this log-SNR in the cosine schedule: a bounded noise level for any schedule."""
    return jnp.arctan(jnp.exp(-log_snr / 2)) * (2 / jnp.pi)


class NoiseLevelEmbedding(nn.Module):
    """Embeds a log-SNR as ADM embeds its timestep: sinusoids of 1000·t, then two dense layers."""

    channels: int
    width: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, log_snr: PerExample) -> Embedding:
        features = sinusoids(1000.0 * log_snr_to_time(log_snr), self.channels).astype(self.dtype)
        features = nn.swish(dense(self.width, dtype=self.dtype, name="hidden")(features))
        return dense(self.width, dtype=self.dtype, name="out")(features)


class ConditioningEmbedding(nn.Module):
    """Adds the embeddings of time, pooled text and augmentation level, and normalises the text tokens.

    Imagen, section 2.5 and appendix F.1: the attention-pooled text embedding is added to the time embedding, and
    LayerNorm is applied to the text embeddings for both the pooled vector and the attention layers.

    The paper does not say how T5's 4096 channels enter the network. ``text_channels`` projects them once, after the
    LayerNorm and before all layers that read them. Without it, each key and value projection has 4096 inputs, and the
    three networks as printed have up to a seventh more parameters (``tests/models/test_conditioning.py``).

    Attributes:
        channels: the width of the sinusoids.
        width: the width of the embedding.
        text_heads: the number of heads of the attention pool; a divisor of its text width.
        text_channels: the width to which the text is projected; None for the encoder's width, without a projection.
        dtype: the compute dtype.
    """

    channels: int
    width: int
    text_heads: int
    text_channels: int | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, log_snr: PerExample, text: Text | None, low_resolution_log_snr: PerExample | None
    ) -> tuple[Embedding, Text | None]:
        def embed(level: PerExample, name: str) -> Embedding:
            return NoiseLevelEmbedding(self.channels, self.width, dtype=self.dtype, name=name)(level)

        embedding = embed(log_snr, "time")
        if low_resolution_log_snr is not None:
            embedding += embed(low_resolution_log_snr, "augmentation")
        if text is not None:
            normalised = nn.LayerNorm(epsilon=1e-5, dtype=jnp.float32, name="text_norm")(text.embeddings)
            if self.text_channels is not None:
                normalised = dense(self.text_channels, dtype=self.dtype, name="text_projection")(normalised)
            text = Text(normalised, text.mask)
            pooled = AttentionPool(self.text_heads, dtype=self.dtype, name="text_pool")(text)
            pooled = nn.LayerNorm(epsilon=1e-5, dtype=jnp.float32, name="pooled_norm")(pooled).astype(self.dtype)
            pooled = nn.swish(dense(self.width, dtype=self.dtype, name="pooled_hidden")(pooled))
            embedding += dense(self.width, dtype=self.dtype, name="pooled_out")(pooled)
        return embedding, text


def stack_inputs(noisy: Images, low_resolution: SmallImages | None, estimate: Images | None) -> NewFeatureMap:
    """Stacks the network's input channels.

    The order is: the noisy image, the enlarged low-resolution image, the self-conditioning estimate. The last two are
    optional.
    """
    inputs: list[Float[Array, "batch height width inputs"]] = [noisy]
    if low_resolution is not None:
        inputs.append(enlarge(low_resolution, like=noisy))
    if estimate is not None:
        inputs.append(estimate)
    return jnp.concatenate(inputs, axis=-1)
