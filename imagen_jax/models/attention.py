"""Attention over the positions of a feature map, with the caption's tokens as further keys."""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from imagen_jax.array_types import Text, TextEmbeddings
from imagen_jax.errors import UserError
from imagen_jax.models.attending import attend
from imagen_jax.models.layers import FeatureMap, GroupNorm, dense, split_into_heads
from imagen_jax.sharding.axes import constrain


class SelfAttention(nn.Module):
    """Self-attention of a feature map, with the caption's tokens as further keys and values.

    Imagen, appendix F.1: the token sequence is concatenated to the keys and values of each self-attention of the base.
    The output projection starts at zero. The result is added to the input.

    Attributes:
        heads: the number of heads; a divisor of the channels.
        normalise_text: whether this layer first applies its own group normalisation to the tokens (DeepFloyd IF).
        recompute_weights: whether the gradient recomputes the attention weights, which are large and cheap to compute.
        dtype: the compute dtype.
    """

    heads: int
    normalise_text: bool = False
    recompute_weights: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: FeatureMap, text: Text | None = None) -> FeatureMap:
        batch, height, width, channels = x.shape
        shape = split_heads(channels, self.heads)
        positions = GroupNorm(name="norm")(x).reshape(batch, height * width, channels)
        query, key, value = (
            split_into_heads(shape, dtype=self.dtype, name=name)(positions) for name in ("query", "key", "value")
        )
        mask = None
        if text is not None:
            tokens = prepare_tokens(text, self.normalise_text, self.dtype)
            text_key = split_into_heads(shape, dtype=self.dtype, name="text_key")(tokens)
            text_value = split_into_heads(shape, dtype=self.dtype, name="text_value")(tokens)
            key = jnp.concatenate([key, text_key], axis=1)
            value = jnp.concatenate([value, text_value], axis=1)
            mask = jnp.concatenate([jnp.ones((batch, height * width), bool), text.mask], axis=1)
        attended = attend(query, key, value, mask, self.recompute_weights)
        attended = dense(channels, zero=True, inputs="heads", dtype=self.dtype, name="out")(attended)
        return x + constrain(attended.reshape(x.shape), "batch", "height", "width", "channels")


class CrossAttention(nn.Module):
    """Attention of each position of a feature map to the caption's tokens only (Imagen, 256→1024 stage).

    Attributes:
        heads: the number of heads; a divisor of the channels.
        normalise_text: whether this layer first applies its own group normalisation to the tokens (DeepFloyd IF).
        recompute_weights: whether the gradient recomputes the attention weights, which are large and cheap to compute.
        dtype: the compute dtype.
    """

    heads: int
    normalise_text: bool = False
    recompute_weights: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: FeatureMap, text: Text) -> FeatureMap:
        batch, height, width, channels = x.shape
        shape = split_heads(channels, self.heads)
        positions = GroupNorm(name="norm")(x).reshape(batch, height * width, channels)
        tokens = prepare_tokens(text, self.normalise_text, self.dtype)
        query = split_into_heads(shape, dtype=self.dtype, name="query")(positions)
        key = split_into_heads(shape, dtype=self.dtype, name="text_key")(tokens)
        value = split_into_heads(shape, dtype=self.dtype, name="text_value")(tokens)
        attended = attend(query, key, value, text.mask, self.recompute_weights)
        attended = dense(channels, zero=True, inputs="heads", dtype=self.dtype, name="out")(attended)
        return x + constrain(attended.reshape(x.shape), "batch", "height", "width", "channels")


Attention = SelfAttention | CrossAttention
"""Any attention layer for a feature map."""


def split_heads(channels: int, heads: int) -> tuple[int, int]:
    """Returns the shape of the channels in an attention: heads, channels of a head.

    Raises:
        UserError: the number of heads does not divide the channels.
    """
    if heads < 1 or channels % heads:
        raise UserError(
            f"{heads} heads do not divide {channels} channels: change network.heads, head_channels or text_heads"
        )
    return heads, channels // heads


def prepare_tokens(text: Text, normalise: bool, dtype: DTypeLike) -> TextEmbeddings:
    """Casts the tokens to ``dtype``. If ``normalise``, it first applies a group normalisation over all tokens."""
    if normalise:
        as_feature_map = text.embeddings.astype(jnp.float32)[:, :, None, :]
        return GroupNorm(name="text_norm")(as_feature_map)[:, :, 0, :].astype(dtype)
    return text.embeddings.astype(dtype)


class FeedForward(nn.Module):
    """The two-layer perceptron after attention in the Efficient U-Net, with twice the channels inside (figure A.28)."""

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: FeatureMap) -> FeatureMap:
        channels = x.shape[-1]
        hidden = dense(2 * channels, outputs="hidden", dtype=self.dtype, name="hidden")(GroupNorm(name="norm")(x))
        hidden = constrain(nn.gelu(hidden), "batch", "height", "width", "hidden")
        return x + dense(channels, zero=True, inputs="hidden", dtype=self.dtype, name="out")(hidden)


class AttentionPool(nn.Module):
    """Pools tokens into one vector by attention: the query is the mean token, and the keys are it and all tokens.

    Attributes:
        heads: the number of heads; a divisor of the text width.
        offset: whether to add a learned vector to the mean token (DeepFloyd IF).
        dtype: the compute dtype.

    Returns ``(batch, text_width)``.
    """

    heads: int
    offset: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, text: Text) -> Float[Array, "batch text_width"]:
        width = text.embeddings.shape[-1]
        shape = split_heads(width, self.heads)
        tokens = text.embeddings.astype(self.dtype)
        present = text.mask[:, :, None]
        mean = jnp.sum(tokens * present, axis=1, keepdims=True) / jnp.maximum(
            jnp.sum(present, axis=1, keepdims=True), 1
        )
        if self.offset:
            mean += self.param("offset", nn.initializers.normal(width**-0.5), (1, width))[None]
        tokens = jnp.concatenate([mean.astype(self.dtype), tokens], axis=1)
        mask = jnp.concatenate([jnp.ones_like(text.mask[:, :1]), text.mask], axis=1)
        query = split_into_heads(shape, dtype=self.dtype, name="query")(tokens[:, :1])
        key = split_into_heads(shape, dtype=self.dtype, name="key")(tokens)
        value = split_into_heads(shape, dtype=self.dtype, name="value")(tokens)
        return attend(query, key, value, mask)[:, 0]
