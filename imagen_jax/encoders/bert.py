"""The BERT encoder (Devlin et al. 2018, arXiv 1810.04805) in Flax: token ids to one hidden state per token.

It is post-norm, as in the paper: each sub-layer computes ``LayerNorm(x + sublayer(x))``. It has no dropout, because the
encoder is frozen. It has no pooler, because Imagen needs the token sequence.
"""

from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from imagen_jax.array_types import TextEmbeddings, TokenIds, TokenMask
from imagen_jax.errors import UserError
from imagen_jax.storage.json_text import parse_json

ARCHITECTURE = {"model_type": "bert", "hidden_act": "gelu", "position_embedding_type": "absolute"}
"""The values of settings in ``config.json`` that this module requires; it implements no other values."""


@dataclass(frozen=True)
class BertConfig:
    """Sizes of a BERT encoder, under the names of its ``config.json``."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    max_position_embeddings: int
    type_vocab_size: int
    layer_norm_eps: float

    @classmethod
    def from_json(cls, text: str | bytes) -> "BertConfig":
        """Returns the sizes in the text of a ``config.json``. Keys that do not shape the network are ignored.

        Raises:
            UserError: a size is missing, or the file describes another architecture.
        """
        settings = parse_json(text)
        for key, implemented in ARCHITECTURE.items():
            if settings.get(key, implemented) != implemented:
                raise UserError(f"config.json has {key}={settings[key]!r}: use a BERT model with {key}={implemented!r}")
        missing = [key for key in cls.__dataclass_fields__ if key not in settings]
        if missing:
            raise UserError(f"config.json lacks {', '.join(missing)}: use the file that came with the BERT weights")
        return cls(**{key: settings[key] for key in cls.__dataclass_fields__})


class SelfAttention(nn.Module):
    """Multi-head self-attention in which no token attends to padding."""

    heads: int

    @nn.compact
    def __call__(self, x: TextEmbeddings, mask: TokenMask) -> TextEmbeddings:
        """Returns the attention output of each token, over the tokens of its own caption."""
        width = x.shape[-1]
        head_width = width // self.heads

        def project(name: str) -> Float[Array, "batch tokens heads head_width"]:
            return nn.Dense(width, name=name)(x).reshape(*x.shape[:2], self.heads, head_width)

        query, key, value = project("query"), project("key"), project("value")
        logits = jnp.einsum("bqhd,bkhd->bhqk", query, key) / jnp.sqrt(head_width)
        # The lowest finite number, not -inf: a row of padding only then averages its values instead of giving NaN.
        logits = jnp.where(mask[:, None, None, :], logits, jnp.finfo(logits.dtype).min)
        attended = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(logits), value)
        return nn.Dense(width, name="output")(attended.reshape(x.shape))


class EncoderLayer(nn.Module):
    """Self-attention, then a two-layer perceptron with the exact (erf) GELU."""

    config: BertConfig

    @nn.compact
    def __call__(self, x: TextEmbeddings, mask: TokenMask) -> TextEmbeddings:
        """Returns the next layer's input."""
        attended = SelfAttention(self.config.num_attention_heads, name="attention")(x, mask)
        x = make_layer_norm(self.config, "attention_norm")(x + attended)
        expanded = nn.gelu(nn.Dense(self.config.intermediate_size, name="expand")(x), approximate=False)
        contracted = nn.Dense(self.config.hidden_size, name="contract")(expanded)
        return make_layer_norm(self.config, "output_norm")(x + contracted)


class BertEncoder(nn.Module):
    """``encoder.apply({"params": params}, ids, mask)``: the last hidden states, ``(batch, tokens, hidden_size)``.

    The hidden states at padding are meaningless: mask them.
    """

    config: BertConfig

    @nn.compact
    def __call__(self, ids: TokenIds, mask: TokenMask) -> TextEmbeddings:
        """Returns the last hidden state of each token."""
        config = self.config

        def embed(name: str, rows: int, indices: Array) -> Array:
            return nn.Embed(rows, config.hidden_size, name=name)(indices)

        x = embed("word_embedding", config.vocab_size, ids)
        x += embed("position_embedding", config.max_position_embeddings, jnp.arange(ids.shape[1]))[None]
        # A caption is one segment, so every token has type 0.
        x += embed("token_type_embedding", config.type_vocab_size, jnp.zeros_like(ids))
        x = make_layer_norm(config, "embedding_norm")(x)
        for index in range(config.num_hidden_layers):
            x = EncoderLayer(config, name=f"layer_{index}")(x, mask)
        return x


def make_layer_norm(config: BertConfig, name: str) -> nn.LayerNorm:
    """Returns BERT's LayerNorm: with its own epsilon, and a variance computed in two passes."""
    # The fast variance, E[x²] − E[x]², loses digits, and BERT's epsilon of 1e-12 is too small to hide that.
    return nn.LayerNorm(epsilon=config.layer_norm_eps, use_fast_variance=False, name=name)
