r"""The encoder of T5 v1.1 (Raffel et al. 2020, arXiv 1910.10683; Shazeer 2020, arXiv 2002.05202) in Flax.

It maps token ids to one hidden state per token. It differs from BERT in four ways. Normalisation comes before each
sub-layer and does not subtract the mean. No layer has a bias. Position is a bias of the attention logits, which all
layers share. The perceptron is gated:

    x ← x + Attention(RMSNorm(x)),      x ← x + W_o (gelu(W_0 n) · (W_1 n)),  n = RMSNorm(x)            (1)
    logits(q, k) = q·k + b[bucket(position of k - position of q)]                                       (2)

The logits are not divided by √d, because T5's initialisation compensates for it. Norms and softmax are float32 for
every compute dtype, because the large sizes are usually loaded in bfloat16.
"""

from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from imagen_jax.array_types import TextEmbeddings, TokenIds, TokenMask
from imagen_jax.errors import UserError
from imagen_jax.sharding.axes import gathering, gathering_table, with_logical_axes
from imagen_jax.storage.paths import Path
from imagen_jax.weights.json_settings import COUNT, POSITIVE, check_kinds, read_settings

ARCHITECTURE = {"model_type": "t5", "feed_forward_proj": "gated-gelu"}
"""The values of settings in ``config.json`` that this module requires; it implements no other values."""

PositionBias = Float[Array, "1 heads queries keys"]


@dataclass(frozen=True)
class T5Config:
    """Sizes of a T5 encoder, under the names of its ``config.json``."""

    vocab_size: int
    d_model: int
    d_kv: int
    d_ff: int
    num_layers: int
    num_heads: int
    relative_attention_num_buckets: int
    relative_attention_max_distance: int = 128
    layer_norm_epsilon: float = 1e-6

    @classmethod
    def read(cls, path: Path) -> "T5Config":
        """Returns the sizes in a ``config.json``. Keys that do not shape the network are ignored.

        Raises:
            UserError: the file is not a JSON object, a size is missing or no number, or the architecture differs.
        """
        settings = read_settings(path)
        for key, implemented in ARCHITECTURE.items():
            found = settings.get(key, "absent")
            if found != implemented:
                raise UserError(f"{path} has {key}={found!r}: use a T5 v1.1 model, with {key}={implemented!r}")
        fields = cls.__dataclass_fields__
        missing = [key for key in fields if key not in settings and not hasattr(cls, key)]
        if missing:
            raise UserError(f"{path} lacks {', '.join(missing)}: use the file that came with the T5 weights")
        check_kinds(path, settings, dict.fromkeys(fields, COUNT) | {"layer_norm_epsilon": POSITIVE})
        return cls(**{key: settings[key] for key in fields if key in settings})


SIZES = {
    name: T5Config(32128, d_model, 64, d_ff, layers, heads, 32)
    for name, (d_model, d_ff, layers, heads) in {
        "small": (512, 1024, 8, 6),
        "base": (768, 2048, 12, 12),
        "large": (1024, 2816, 24, 16),
        "xl": (2048, 5120, 24, 32),
        "xxl": (4096, 10240, 24, 64),
    }.items()
}
"""The published sizes of T5 v1.1; Imagen's is xxl."""


def relative_position_buckets(
    queries: int, keys: int, buckets: int, max_distance: int
) -> Int[np.ndarray, "queries keys"]:
    """Returns the bucket of each pair of positions, ``(queries, keys)`` int32 (Raffel et al. 2020, section 2.1).

    Half of the buckets are for keys after the query. In each half, the first half of the buckets has one distance each.
    The ranges of the others grow logarithmically up to ``max_distance``. The last bucket has all greater distances.
    """
    offset = np.arange(keys)[None, :] - np.arange(queries)[:, None]
    half = buckets // 2
    exact = half // 2
    distance = np.abs(offset)
    # In float32, as in training: the rounding decides the bucket of a distance at an edge.
    ratio = np.log(np.maximum(distance, 1).astype(np.float32) / exact) / np.float32(np.log(max_distance / exact))
    logarithmic = exact + (ratio * (half - exact)).astype(np.int32)
    bucket = np.where(distance < exact, distance, np.minimum(logarithmic, half - 1))
    return (bucket + half * (offset > 0)).astype(np.int32)


# Of type Any, because Flax's types do not say that initializers can be hashed.
LECUN_NORMAL: Any = nn.initializers.lecun_normal()

OF_TABLES: Any = nn.initializers.variance_scaling(1.0, "fan_in", "normal", out_axis=0)
"""Initialises embedding tables."""


def dense(channels: int, axes: tuple[str, str], dtype: DTypeLike, name: str) -> nn.Dense:
    """Returns a dense layer without bias. ``axes`` names its input and output axis, see ``sharding.axes``."""
    return nn.Dense(
        channels,
        use_bias=False,
        kernel_init=with_logical_axes(LECUN_NORMAL, axes),
        promote_dtype=gathering(axes),
        dtype=dtype,
        name=name,
    )


def embed(count: int, channels: int, dtype: DTypeLike, name: str) -> nn.Embed:
    """Returns an embedding table of ``count`` vectors."""
    axes = ("vocabulary", "channels")
    initializer = with_logical_axes(OF_TABLES, axes)
    return nn.Embed(
        count, channels, embedding_init=initializer, promote_dtype=gathering_table(axes), dtype=dtype, name=name
    )


class RMSNorm(nn.Module):
    """Divides by the root mean square over the channels, in float32, and scales."""

    epsilon: float
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: TextEmbeddings) -> TextEmbeddings:
        scale = self.param("scale", nn.initializers.ones_init(), x.shape[-1:])
        x = x.astype(jnp.float32)
        x = x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + self.epsilon)
        return (x.astype(self.dtype) * scale[None, None, :]).astype(self.dtype)


class T5Attention(nn.Module):
    """Multi-head self-attention with a bias for each pair of positions. No token attends to padding."""

    config: T5Config
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: TextEmbeddings, mask: TokenMask, bias: PositionBias) -> TextEmbeddings:
        """Returns the attention output of each token, over the tokens of its own caption."""
        heads, width = self.config.num_heads, self.config.d_kv

        def project(name: str) -> Float[Array, "batch tokens heads head_width"]:
            projected = dense(heads * width, ("channels", "heads"), self.dtype, name)(x)
            return projected.reshape(*x.shape[:2], heads, width)

        query, key, value = project("query"), project("key"), project("value")
        logits = jnp.einsum("bqhd,bkhd->bhqk", query, key).astype(jnp.float32) + bias
        logits = jnp.where(mask[:, None, None, :], logits, jnp.finfo(jnp.float32).min)
        weights = jax.nn.softmax(logits).astype(self.dtype)
        attended = jnp.einsum("bhqk,bkhd->bqhd", weights, value).reshape(*x.shape[:2], heads * width)
        return dense(x.shape[-1], ("heads", "channels"), self.dtype, "output")(attended)


class GatedFeedForward(nn.Module):
    """The gated perceptron of equation (1); its GELU is the tanh approximation."""

    hidden: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: TextEmbeddings) -> TextEmbeddings:
        def expand(name: str) -> nn.Dense:
            return dense(self.hidden, ("channels", "hidden"), self.dtype, name)

        gate = nn.gelu(expand("gate")(x), approximate=True)
        return dense(x.shape[-1], ("hidden", "channels"), self.dtype, "contract")(gate * expand("expand")(x))


class T5Encoder(nn.Module):
    """``encoder.apply({"params": params}, ids, mask)``: normalised last hidden states, ``(batch, tokens, d_model)``.

    The hidden states at padding are meaningless: mask them.

    Attributes:
        config: the sizes.
        dtype: the compute dtype, which may differ from that of the parameters.
    """

    config: T5Config
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, ids: TokenIds, mask: TokenMask) -> TextEmbeddings:
        """Returns the last hidden state of each token."""
        config, tokens = self.config, ids.shape[1]

        def norm(name: str) -> RMSNorm:
            return RMSNorm(config.layer_norm_epsilon, self.dtype, name=name)

        x = embed(config.vocab_size, config.d_model, self.dtype, "embedding")(ids)
        buckets = relative_position_buckets(
            tokens, tokens, config.relative_attention_num_buckets, config.relative_attention_max_distance
        )
        # (queries, keys, heads) to (1, heads, queries, keys): one bias, which every layer adds to its logits.
        table = embed(config.relative_attention_num_buckets, config.num_heads, jnp.float32, "position_bias")
        bias = table(buckets).astype(jnp.float32).transpose(2, 0, 1)[None]
        for index in range(config.num_layers):
            normalised = norm(f"layer_{index}_attention_norm")(x)
            x = x + T5Attention(config, self.dtype, name=f"layer_{index}_attention")(normalised, mask, bias)
            normalised = norm(f"layer_{index}_feed_forward_norm")(x)
            x = x + GatedFeedForward(config.d_ff, self.dtype, name=f"layer_{index}_feed_forward")(normalised)
        return norm("final_norm")(x)
