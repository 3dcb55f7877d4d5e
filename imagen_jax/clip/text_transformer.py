"""CLIP's text tower as a transformer (Radford et al. 2021, section 2.4).

    tokens of a caption -> + positions -> causal transformer -> norm -> state of the end token -> projection

Tokens start with standard deviation 0.02, positions with 0.01 and the projection with width^-1/2, as in OpenAI's code.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from imagen_jax.array_types import DTYPES, TokenIds
from imagen_jax.clip.transformer import (
    Embeddings,
    Norm,
    States,
    block_class,
    check_transformer,
    normal,
    projection,
    run_scanned,
)
from imagen_jax.errors import UserError, lookup
from imagen_jax.sharding.axes import constrain, gather, gathering_table, with_logical_axes

TOKEN_AXES = ("vocabulary", "channels")
POSITION_AXES = ("places", "channels")


def find_end(ids: TokenIds, end: int) -> jax.Array:
    """Returns the first position of the end token in each caption; 0 if there is none."""
    return jnp.argmax(ids == end, axis=1)


POOLS: dict[str, Callable[[TokenIds, int], jax.Array]] = {
    "end": find_end,
    "argmax": lambda ids, end: jnp.argmax(ids, axis=1),
    "first": lambda ids, end: jnp.zeros(len(ids), jnp.int32),
    "last": lambda ids, end: jnp.full(len(ids), ids.shape[1] - 1),
}
"""The position whose state becomes the embedding.

end: the first end token; argmax: the token with the greatest id, as open_clip finds the end token; first and last: the
first and the last position, which may be padding.
"""


def token_table(vocabulary: int, width: int, dtype: DTypeLike, name: str | None = None) -> nn.Embed:
    """Returns the layer that maps token ids to vectors."""
    return nn.Embed(
        vocabulary,
        width,
        embedding_init=with_logical_axes(normal(0.02), TOKEN_AXES),
        promote_dtype=gathering_table(TOKEN_AXES),
        dtype=dtype,
        name=name,
    )


class TextTransformer(nn.Module):
    """``tower.apply({"params": params}, ids)``: token ids of captions to embeddings, which have any length.

    With causal attention and the pool "end", tokens after the first ``end`` of a caption do not change its embedding.

    Attributes:
        vocabulary: the number of tokens in the vocabulary.
        context: the max number of token positions of a caption.
        width: the size of the hidden states.
        layers: the number of layers.
        heads: the number of attention heads; a divisor of ``width``.
        hidden: the width inside the perceptrons.
        embedding: the size of the embeddings.
        end: the id of the end token.
        activation: a key of ``transformer.ACTIVATIONS``; OpenAI's models have "quick_gelu".
        pool: a key of ``POOLS``.
        causal: whether a position attends only to itself and earlier ones.
        projection_bias: whether the projection has a bias.
        remat: a key of ``transformer.REMAT``.
        scan: whether the layers run as one loop.
        dtype: the compute dtype, a key of ``array_types.DTYPES``. Embeddings and states are float32.

    Raises:
        UserError: the fields contradict each other.
    """

    vocabulary: int
    context: int
    width: int
    layers: int
    heads: int
    hidden: int
    embedding: int
    end: int
    activation: str = "gelu"
    pool: str = "end"
    causal: bool = True
    projection_bias: bool = False
    remat: str = "none"
    scan: bool = False
    dtype: str = "float32"

    def __post_init__(self) -> None:
        check_transformer(self)
        check_tokens(self.vocabulary, self.context, self.end)
        lookup(POOLS, self.pool, "pool")
        super().__post_init__()

    def setup(self) -> None:
        """Makes the layers, with the names that the parameters have had from the start."""
        dtype = DTYPES[self.dtype]
        self.tokens = token_table(self.vocabulary, self.width, dtype)
        start = with_logical_axes(normal(0.01), POSITION_AXES)
        self.positions: Any = self.param("positions", start, (self.context, self.width))
        for index in range(self.layers):
            setattr(self, f"layer_{index}", self.make_block())
        self.last_norm = Norm()
        self.projection = projection(self.embedding, self.width, dtype, use_bias=self.projection_bias)

    def example_input(self) -> np.ndarray:
        """Returns an input of one caption, for ``init``."""
        return np.zeros((1, self.context), np.int32)

    def make_block(self, **options: Any) -> nn.Module:
        """Makes a layer."""
        fields = (self.heads, self.hidden, self.layers, self.activation, self.causal, self.dtype)
        return block_class(self.remat)(*fields, **options)

    def __call__(self, ids: TokenIds, train: bool = False) -> Embeddings:
        """Returns the embeddings, ``(batch, embedding)``, float32.

        Args:
            ids: ``(batch, tokens)``, with at most ``context`` tokens.
            train: no effect, since the tower has no dropout.

        Raises:
            UserError: there are more than ``context`` tokens.
        """
        return self.embed(self.run_layers(ids), ids)

    def states(self, ids: TokenIds) -> States:
        """Returns the state of each token after the last norm, ``(batch, tokens, width)``, float32.

        The embedding is the projection of one of these states. It has no meaning behind the end token.
        """
        return self.last_norm(self.run_layers(ids)).astype(jnp.float32)

    def states_and_embeddings(self, ids: TokenIds) -> tuple[States, Embeddings]:
        """Returns the results of ``states`` and ``__call__``, computed together."""
        x = self.run_layers(ids)
        return self.last_norm(x).astype(jnp.float32), self.embed(x, ids)

    def run_layers(self, ids: TokenIds) -> States:
        """Returns the states after the last layer."""
        tokens = ids.shape[1]
        if tokens > self.context:
            raise UserError(f"captions of {tokens} tokens exceed the tower's context of {self.context}: truncate them")
        positions = gather(self.positions, POSITION_AXES, DTYPES[self.dtype])
        x = constrain(self.tokens(ids) + positions[None, :tokens], "batch", "places", "channels")
        names = [f"layer_{index}" for index in range(self.layers)]
        if self.scan and self.layers > 1 and not self.is_initializing():
            return run_scanned(self, self.make_block(parent=None), names, x)
        for name in names:
            x = getattr(self, name)(x)
        return x

    def embed(self, x: States, ids: TokenIds) -> Embeddings:
        """Returns the embeddings of captions from the states after the last layer."""
        pooled = x[jnp.arange(len(ids)), POOLS[self.pool](ids, self.end)]
        return self.projection(self.last_norm(pooled)).astype(jnp.float32)


def check_tokens(vocabulary: int, context: int, end: int) -> None:
    """Checks the sizes of a text tower.

    Raises:
        UserError: a size is not positive, or the end token is not in the vocabulary.
    """
    if vocabulary < 1 or context < 1:
        raise UserError(f"a text tower has vocabulary={vocabulary} and context={context}: give positive numbers")
    if not 0 <= end < vocabulary:
        raise UserError(f"end={end} is not an id of a vocabulary of {vocabulary} tokens: choose a smaller one")
