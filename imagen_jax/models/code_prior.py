"""DALL·E 2's autoregressive prior: predicts the codes of an image embedding, one after the other, from a caption.

    position     0 … text_length - 1     text_length     + 1             + 2 … + codes
    input        tokens of the caption   z_t             similarity      code 0 … code (codes - 2)
    prediction   -                       similarity      code 0          code 1 … code (codes - 1)

A causal transformer (Ramesh et al. 2022, section 2.2). The prefix is the caption, its embedding z_t and one token of
the quantised z_i·z_t, the similarity code. That token is predicted too, so that sampling can draw it from its
distribution (``sampling.codes``). ``clip.codes`` makes codes from embeddings.

What the paper does not print, and what we chose:

- How the caption enters: as tokens of an encoder, normalised and projected, before z_t. The printed context of the
  decoder is 384, and 64 tokens, z_t, the similarity code and 318 of 319 codes are 384. Padding is masked.
- Tables of codes: all components share one table of embeddings and one output layer, and learned positions tell the
  components apart. A table for each of 319 components of 1,024 buckets would have 0.54B parameters.
- The null of guidance: the caption's null (``diffusion.conditions``), and a learned state for z_t. The similarity code
  stays.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from imagen_jax.array_types import Text
from imagen_jax.diffusion.conditions import Conditions, Vectors
from imagen_jax.errors import UserError
from imagen_jax.models.attention import split_heads
from imagen_jax.models.cached_transformer import (
    Cache,
    CachedTransformer,
    Position,
    States,
    check_sizes,
    empty_cache,
)
from imagen_jax.models.layers import dense
from imagen_jax.models.transformer import norm
from imagen_jax.sharding.axes import constrain, gather, gathering_table, with_logical_axes

Codes = Int[Array, "batch codes"]
Code = Int[Array, " batch"]
BucketLogits = Float[Array, "batch buckets"]
SimilarityLogits = Float[Array, "batch similarity_buckets"]

TABLE_AXES = ("vocabulary", "channels")
POSITION_AXES = ("places", "channels")

# One object for each, because ``with_logical_axes`` caches by it.
TABLE_START: Any = nn.initializers.normal(0.02)
POSITION_START: Any = nn.initializers.normal(0.01)


class CodeLogits(NamedTuple):
    """The predictions of a whole sequence, as logits in float32.

    Attributes:
        similarity: ``(batch, similarity buckets)``.
        codes: ``(batch, codes, buckets)``.
    """

    similarity: SimilarityLogits
    codes: Float[Array, "batch codes buckets"]


class DecodingState(NamedTuple):
    """What decoding remembers between two codes.

    Attributes:
        cache: keys and values of all positions so far.
        present: False at the padding of captions, ``(batch, context)``.
    """

    cache: Cache
    present: Bool[Array, "batch context"]


class CodePrior(nn.Module):
    """``prior(conditions, similarity, codes)``: logits of a whole sequence; and the same step by step, with a cache.

    ``begin``, ``after_similarity`` and ``after_code`` decode. They compute the same logits as the call.

    Attributes:
        codes: number of codes of an embedding.
        buckets: number of values of a code.
        similarity_buckets: number of values of the similarity code.
        text_length: number of positions for the caption's tokens.
        width: the width of the transformer.
        layers: the number of its layers.
        heads: the number of its attention heads; a divisor of ``width``.
        dropout: rate of dropout in training.
        remat: a key of ``cached_transformer.REMAT``.
        scan: whether the layers run as one loop in training.
        dtype: the compute dtype.

    Raises:
        UserError: a size is not positive, or a choice is unknown.
    """

    codes: int
    buckets: int
    similarity_buckets: int
    text_length: int
    width: int
    layers: int
    heads: int
    dropout: float = 0.0
    remat: str = "none"
    scan: bool = False
    dtype: DTypeLike = jnp.float32

    def __post_init__(self) -> None:
        check_sizes(self)
        for name in ("codes", "buckets", "similarity_buckets", "text_length"):
            if getattr(self, name) < 1:
                raise UserError(f"a prior of codes has {name}={getattr(self, name)}: give a positive number")
        super().__post_init__()

    @property
    def context(self) -> int:
        """The number of positions: the caption, z_t, the similarity code, and all codes but the last."""
        return self.text_length + 1 + self.codes

    def setup(self) -> None:
        """Makes the layers."""
        self.positions: Any = self.param(
            "positions", with_logical_axes(POSITION_START, POSITION_AXES), (self.context, self.width)
        )
        self.text_norm = norm(None)
        self.text_in = dense(self.width, dtype=self.dtype, name=None)
        self.vector_in = dense(self.width, dtype=self.dtype, name=None)
        self.vector_null: Any = self.param("vector_null", nn.initializers.zeros_init(), (self.width,))
        self.similarity_table = self.make_table(self.similarity_buckets)
        self.code_table = self.make_table(self.buckets)
        self.transformer = CachedTransformer(self.layers, self.heads, self.dropout, self.remat, self.scan, self.dtype)
        self.similarity_out = dense(self.similarity_buckets, dtype=self.dtype, name=None)
        self.code_out = dense(self.buckets, dtype=self.dtype, name=None)

    def make_table(self, size: int) -> nn.Embed:
        """Makes the layer that maps codes to vectors."""
        return nn.Embed(
            size,
            self.width,
            embedding_init=with_logical_axes(TABLE_START, TABLE_AXES),
            promote_dtype=gathering_table(TABLE_AXES),
            dtype=self.dtype,
        )

    def __call__(self, conditions: Conditions, similarity: Code, codes: Codes, train: bool = False) -> CodeLogits:
        """Returns the logits of each code, given the true ones before it (teacher forcing).

        Args:
            conditions: ``text`` and ``text_vector``, at most ``text_length`` tokens.
            similarity: the similarity codes.
            codes: the codes of all components.
            train: whether dropout is on, which needs a "dropout" key.

        Raises:
            UserError: a condition is missing or there is another, or there are too many tokens.
            ValueError: there are not ``codes`` codes.
        """
        if codes.shape[1] != self.codes:
            raise ValueError(f"the prior predicts {self.codes} codes, and {codes.shape[1]} are given")
        prefix, present = self.embed_prefix(conditions)
        told = [prefix, self.similarity_table(similarity)[:, None], self.code_table(codes[:, :-1])]
        x = jnp.concatenate(told, axis=1) + self.positions_in(0, self.context)
        x = constrain(x, "batch", "places", "channels")
        seen = present[:, None] & jnp.tri(self.context, dtype=bool)[None]
        states, _ = self.transformer(x, seen, train)
        first = self.text_length
        return CodeLogits(
            self.similarity_out(states[:, first]).astype(jnp.float32),
            self.code_out(states[:, first + 1 :]).astype(jnp.float32),
        )

    def begin(self, conditions: Conditions) -> tuple[DecodingState, SimilarityLogits]:
        """Reads the caption and z_t; returns the state, and the logits of the similarity code.

        Raises:
            UserError: as ``__call__``.
        """
        prefix, present = self.embed_prefix(conditions)
        batch, length = prefix.shape[:2]
        cache = empty_cache(batch, self.context, self.layers, split_heads(self.width, self.heads), self.dtype)
        states, state = self.advance(DecodingState(cache, present), prefix, 0)
        return state, self.similarity_out(states[:, length - 1]).astype(jnp.float32)

    def after_similarity(self, state: DecodingState, similarity: Code) -> tuple[DecodingState, BucketLogits]:
        """Reads the similarity code; returns the next state, and the logits of the first code."""
        states, state = self.advance(state, self.similarity_table(similarity)[:, None], self.text_length + 1)
        return state, self.code_out(states[:, 0]).astype(jnp.float32)

    def after_code(self, state: DecodingState, code: Code, number: Position) -> tuple[DecodingState, BucketLogits]:
        """Reads a code; returns the next state, and the logits of the next code.

        Args:
            state: the state after the code before.
            code: the code of each example.
            number: the number of its component, from 0; the last code need not be read.
        """
        states, state = self.advance(state, self.code_table(code)[:, None], self.text_length + 2 + number)
        return state, self.code_out(states[:, 0]).astype(jnp.float32)

    def advance(self, state: DecodingState, x: States, start: Position) -> tuple[States, DecodingState]:
        """Runs the transformer on the positions from ``start``, with the cache of those before."""
        length = x.shape[1]
        places = jnp.arange(self.context)
        seen = state.present[:, None] & (places[None] <= start + jnp.arange(length)[:, None])[None]
        states, cache = self.transformer(x + self.positions_in(start, length), seen, cache=state.cache, start=start)
        assert cache is not None
        return states, state._replace(cache=cache)

    def positions_in(self, start: Position, length: int) -> States:
        """Returns the embeddings of ``length`` positions, with a batch axis of 1."""
        positions = gather(self.positions, POSITION_AXES, self.dtype)
        return jax.lax.dynamic_slice_in_dim(positions, start, length)[None]

    def embed_prefix(self, conditions: Conditions) -> tuple[States, Bool[Array, "batch context"]]:
        """Returns the states of the caption and of z_t, and for all positions whether they are present.

        Raises:
            UserError: as ``__call__``.
        """
        text, vector = self.check_conditions(conditions)
        batch, tokens = text.mask.shape
        if tokens > self.text_length:
            raise UserError(
                f"captions of {tokens} tokens exceed the {self.text_length} positions of the prior: truncate them"
            )
        padding = ((0, 0), (0, self.text_length - tokens))
        caption = self.text_in(self.text_norm(text.embeddings.astype(jnp.float32)))
        caption = jnp.pad(caption, (*padding, (0, 0)))
        null = self.vector_null.astype(self.dtype)[None]
        embedded = jnp.where(vector.present[:, None], self.vector_in(vector.values), null)
        prefix = jnp.concatenate([caption, embedded[:, None]], axis=1)
        others = jnp.ones((batch, self.context - self.text_length), bool)
        return prefix, jnp.concatenate([jnp.pad(text.mask, padding), others], axis=1)

    def check_conditions(self, conditions: Conditions) -> tuple[Text, Vectors]:
        """Returns the caption and z_t.

        Raises:
            UserError: one is missing, or there is another condition.
        """
        if set(conditions.given) != {"text", "text_vector"}:
            raise UserError(
                f"a prior of codes is told text and text_vector, not {', '.join(conditions.given) or 'nothing'}: give "
                "both and no other"
            )
        assert conditions.text is not None and conditions.text_vector is not None
        return conditions.text, conditions.text_vector
