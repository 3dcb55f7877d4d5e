"""Combines what a network is told into one embedding and one token sequence, and stacks its input images.

    conditions -> the embedder of each part -> a sum of embeddings (time, augmentation, pooled text, vectors, class)
                                            -> one sequence of tokens (text, and those of vectors)
               -> the low-resolution image, as further input channels

The embedding enters each residual block (``blocks``), the tokens enter attention (``attention``). ``EMBEDDERS`` has one
function for each part of ``Conditions``: a new kind of condition is one more entry.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from imagen_jax.array_types import Images, PerExample, Text
from imagen_jax.diffusion.conditions import Conditions, Vectors
from imagen_jax.errors import UserError
from imagen_jax.models.attention import AttentionPool
from imagen_jax.models.layers import Embedding, NewFeatureMap, dense, enlarge, sinusoids
from imagen_jax.models.text_transformer import make_text_transformer
from imagen_jax.sharding.axes import with_logical_axes


def log_snr_to_time(log_snr: PerExample) -> PerExample:
    """Returns the time in [0, 1] of this log-SNR in the cosine schedule: a bounded noise level for any schedule."""
    return jnp.arctan(jnp.exp(-log_snr / 2)) * (2 / jnp.pi)


def random_fourier(value: PerExample, width: int) -> Embedding:
    """Returns cosines and sines of a number in [0, 1] at random frequencies of N(0, 16²), ``(batch, width)``.

    Song et al. 2021 ("Score-based generative modeling", appendix C.2). The frequencies come from a fixed key, and so
    are no parameters: neither the optimizer nor the average changes them.
    """
    frequencies = 16.0 * jax.random.normal(jax.random.key(0), (width // 2,))
    angles = 2 * jnp.pi * value[:, None] * frequencies[None, :]
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


TIME_FEATURES: dict[str, Callable[[PerExample, int], Embedding]] = {
    "sinusoids": lambda time, width: sinusoids(1000.0 * time, width),
    "fourier": random_fourier,
}
"""``TIME_FEATURES[name](time, width)``: features of a time in [0, 1]."""


class NoiseLevelEmbedding(nn.Module):
    """Embeds a log-SNR as ADM embeds its timestep: sinusoids of 1000·t, then two dense layers.

    Attributes:
        channels: the width of the features of the time.
        width: the width of the embedding.
        features: a key of ``TIME_FEATURES``.
        dtype: the compute dtype.
    """

    channels: int
    width: int
    features: str = "sinusoids"
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, log_snr: PerExample) -> Embedding:
        features = TIME_FEATURES[self.features](log_snr_to_time(log_snr), self.channels).astype(self.dtype)
        features = nn.swish(dense(self.width, dtype=self.dtype, name="hidden")(features))
        return dense(self.width, dtype=self.dtype, name="out")(features)


# Flax's types do not say that initializers can be hashed, which the cache of ``with_logical_axes`` needs.
NORMAL: Any = nn.initializers.normal(1.0)


class Embedded(NamedTuple):
    """What an embedder makes of a part of the conditions.

    Attributes:
        added: what is added to the time embedding, ``(batch, width)``; None for nothing.
        tokens: what is appended to the token sequence; None for nothing.
    """

    added: Embedding | None = None
    tokens: Text | None = None


class ConditioningEmbedding(nn.Module):
    """Adds the embeddings of time and of all conditions, and gathers their tokens in one sequence.

    Imagen, section 2.5 and appendix F.1: the attention-pooled text embedding is added to the time embedding, and
    LayerNorm is applied to the text embeddings for both the pooled vector and the attention layers.

    The paper does not say how T5's 4096 channels enter the network. ``text_channels`` projects them once, after the
    LayerNorm and before all layers that read them. Without it, each key and value projection has 4096 inputs, and the
    three networks as printed have up to a seventh more parameters (``tests/models/test_conditioning.py``).

    Attributes:
        channels: the width of the features of time.
        width: the width of the embedding.
        text_heads: the number of heads of the attention pool; a divisor of its text width.
        text_channels: the width to which the text is projected; None for the encoder's width, without a projection.
        classes: the number of classes, for a network that is told a class; 0 for none.
        vector_tokens: the number of tokens that each vector also becomes (4 in DALL·E 2, section 2.1); 0 for none.
        time_features: a key of ``TIME_FEATURES``.
        text_transformer: the sizes of a text transformer for token ids, by the names in ``text_transformer.SIZES``: a
            mapping with a hash, such as ``FrozenDict``; None for none.
        remat: the activations of the text transformer that the gradient recomputes, see ``models.remat``.
        dtype: the compute dtype.
    """

    channels: int
    width: int
    text_heads: int
    text_channels: int | None = None
    classes: int = 0
    vector_tokens: int = 0
    time_features: str = "sinusoids"
    text_transformer: Mapping[str, Any] | None = None
    remat: str = "none"
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, log_snr: PerExample, conditions: Conditions) -> tuple[Embedding, Text | None]:
        embedding = self.embed_level(log_snr, "time")
        sequences = []
        for name in conditions.given:
            if name not in EMBEDDERS:
                raise UserError(f"this network can't be told {name}: it takes {', '.join(EMBEDDERS)}")
        for name in EMBEDDERS:
            if getattr(conditions, name) is not None:
                embedded = EMBEDDERS[name](self, conditions, name)
                embedding = embedding if embedded.added is None else embedding + embedded.added
                sequences.append(embedded.tokens)
        return embedding, join_tokens([tokens for tokens in sequences if tokens is not None])

    def embed_level(self, level: PerExample, name: str) -> Embedding:
        """Embeds a log-SNR with parameters of its own."""
        make = NoiseLevelEmbedding(self.channels, self.width, self.time_features, dtype=self.dtype, name=name)
        return make(level)


def embed_low_resolution(owner: ConditioningEmbedding, conditions: Conditions, name: str) -> Embedded:
    """Adds the embedding of the noise level of the low-resolution image, if it has one.

    The image itself enters as channels.
    """
    low_resolution: Any = conditions.low_resolution
    if low_resolution.log_snr is None:
        return Embedded()
    return Embedded(owner.embed_level(low_resolution.log_snr, "augmentation"))


def embed_text(owner: ConditioningEmbedding, conditions: Conditions, name: str) -> Embedded:
    """Adds the pooled text, and appends the normalised text to the tokens."""
    text: Any = conditions.text
    normalised = nn.LayerNorm(epsilon=1e-5, dtype=jnp.float32, name="text_norm")(text.embeddings)
    if owner.text_channels is not None:
        normalised = dense(owner.text_channels, dtype=owner.dtype, name="text_projection")(normalised)
    text = Text(normalised, text.mask)
    pooled = AttentionPool(owner.text_heads, dtype=owner.dtype, name="text_pool")(text)
    pooled = nn.LayerNorm(epsilon=1e-5, dtype=jnp.float32, name="pooled_norm")(pooled).astype(owner.dtype)
    pooled = nn.swish(dense(owner.width, dtype=owner.dtype, name="pooled_hidden")(pooled))
    return Embedded(dense(owner.width, dtype=owner.dtype, name="pooled_out")(pooled), text)


def embed_tokens(owner: ConditioningEmbedding, conditions: Conditions, name: str) -> Embedded:
    """Adds a projection of the last position's state, and appends the states of all positions to the tokens.

    GLIDE, section 4.1. The last position of most captions is padding, whose state has attended to the tokens. Attention
    sees the states of padding too.
    """
    if owner.text_transformer is None:
        raise UserError(
            "the network is told tokens, and has no text transformer to read them: set config.network.text_transformer"
        )
    transformer = make_text_transformer(owner.text_transformer, owner.remat, owner.dtype, "text_transformer")
    tokens: Any = conditions.tokens
    states = transformer(tokens)
    added = dense(owner.width, dtype=owner.dtype, name=f"{name}_out")(states[:, -1])
    if owner.text_channels is not None:
        states = dense(owner.text_channels, dtype=owner.dtype, name=f"{name}_projection")(states)
    return Embedded(added, Text(states, jnp.ones(states.shape[:2], bool)))


def embed_vector(owner: ConditioningEmbedding, conditions: Conditions, name: str) -> Embedded:
    """Adds a projection of the vector, and appends ``vector_tokens`` tokens (Ramesh et al. 2022, section 2.1).

    A learned vector, zero at first, takes the place of an absent one. The tokens are as wide as those of the text.
    """
    vector: Vectors = getattr(conditions, name)
    width = vector.values.shape[-1]
    null = owner.param(f"{name}_null", nn.initializers.zeros_init(), (width,))
    values = jnp.where(vector.present[:, None], vector.values, null[None]).astype(owner.dtype)
    added = dense(owner.width, dtype=owner.dtype, name=f"{name}_out")(values)
    if not owner.vector_tokens:
        return Embedded(added)
    if owner.text_channels is not None:
        channels = owner.text_channels
    elif conditions.text is not None:
        channels = conditions.text.embeddings.shape[-1]
    else:
        channels = owner.text_transformer["width"] if owner.text_transformer else width
    tokens = dense(owner.vector_tokens * channels, dtype=owner.dtype, name=f"{name}_tokens")(values)
    tokens = tokens.reshape(len(values), owner.vector_tokens, channels)
    return Embedded(added, Text(tokens.astype(jnp.float32), jnp.ones(tokens.shape[:2], bool)))


def embed_label(owner: ConditioningEmbedding, conditions: Conditions, name: str) -> Embedded:
    """Adds a learned vector for each class, and one for no class (Dhariwal & Nichol 2021, section 3.1)."""
    label: Any = conditions.label
    if not owner.classes:
        raise UserError("the network is told a class, and does not know how many there are: set config.network.classes")
    start = with_logical_axes(NORMAL, ("vocabulary", "channels"))
    table: Any = owner.param(f"{name}_table", start, (owner.classes + 1, owner.width))
    return Embedded(table[jnp.where(label.present, label.classes, owner.classes)].astype(owner.dtype))


def join_tokens(sequences: list[Text]) -> Text | None:
    """Joins token sequences of the same width into one; None if there is none.

    Raises:
        UserError: their widths differ.
    """
    if len(sequences) < 2:
        return sequences[0] if sequences else None
    widths = {tokens.embeddings.shape[-1] for tokens in sequences}
    if len(widths) > 1:
        raise UserError(
            f"tokens of the widths {sorted(widths)} can't be one sequence: set config.network.text_channels, to which "
            "all are projected"
        )
    return Text(*(jnp.concatenate(parts, axis=1) for parts in zip(*sequences, strict=True)))


Embedder = Callable[[ConditioningEmbedding, Conditions, str], Embedded]
"""``embedder(owner, conditions, name)``: embeds the part of this name with layers of the module ``owner``."""

EMBEDDERS: dict[str, Embedder] = {
    "low_resolution": embed_low_resolution,
    "text": embed_text,
    "tokens": embed_tokens,
    "text_vector": embed_vector,
    "image_vector": embed_vector,
    "label": embed_label,
}
"""The embedder of each part of ``Conditions``, in the order of their tokens."""


def stack_inputs(noisy: Images, conditions: Conditions, estimate: Images | None) -> NewFeatureMap:
    """Stacks the network's input channels.

    The order is: the noisy image, the enlarged low-resolution image, the self-conditioning estimate. The last two are
    optional.
    """
    inputs: list[Float[Array, "batch height width inputs"]] = [noisy]
    if conditions.low_resolution is not None:
        inputs.append(enlarge(conditions.low_resolution.image, like=noisy))
    if estimate is not None:
        inputs.append(estimate)
    return jnp.concatenate(inputs, axis=-1)
