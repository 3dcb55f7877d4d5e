"""The blocks of ``transformer``, with a cache of keys and values for decoding step by step, and a last norm.

Without a cache it runs over a whole sequence, for training. With one it takes the next states alone, writes their keys
and values into the cache, and attends over it, so each further token costs as much as the one before. Both are the same
numbers. Which keys a query sees is the caller's to say.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool

from imagen_jax.errors import UserError, lookup
from imagen_jax.models.attention import split_heads
from imagen_jax.models.equal_blocks import run_blocks
from imagen_jax.models.remat import POLICIES, recompute
from imagen_jax.models.transformer import LayerCache, Position, States, TransformerBlock, norm

Seen = Bool[Array, "batch queries keys"]
"""True where a query attends to a key."""

REMAT = {name: POLICIES[name] for name in ("none", "elementwise", "blocks")}
"""The values of ``remat``, as in ``models.remat``."""


Cache = tuple[LayerCache, ...]
"""The caches of all layers."""


def empty_cache(batch: int, positions: int, layers: int, shape: tuple[int, int], dtype: DTypeLike) -> Cache:
    """Returns a cache with nothing in it.

    Args:
        batch: number of sequences.
        positions: length of the whole sequence.
        layers: number of layers.
        shape: number of heads, channels of a head.
        dtype: the compute dtype of the transformer.
    """
    zeros = jnp.zeros((batch, positions, *shape), dtype)
    return tuple(LayerCache(zeros, zeros) for _ in range(layers))


class CachedTransformer(nn.Module):
    """``transformer(x, seen, train)`` for a whole sequence, ``transformer(x, seen, cache=…, start=…)`` for a part.

    Attributes:
        layers: the number of layers.
        heads: the number of attention heads; a divisor of the width.
        dropout: rate of dropout.
        remat: a key of ``REMAT``.
        scan: whether the layers run as one loop, without a cache; see ``equal_blocks``.
        dtype: the compute dtype.
    """

    layers: int
    heads: int
    dropout: float = 0.0
    remat: str = "none"
    scan: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: States, seen: Seen, train: bool = False, cache: Cache | None = None, start: Position = 0
    ) -> tuple[States, Cache | None]:
        """Returns the normalised states after the last layer, float32, and the cache with these positions written.

        Args:
            x: the states of consecutive positions.
            seen: which keys each of them attends to: all positions of ``x``, or all of the cache.
            train: whether dropout is on, which needs a "dropout" key.
            cache: keys and values of earlier positions; None without a cache.
            start: the position of the first state in the cache.
        """
        lookup(REMAT, self.remat, "network.remat")
        names = [f"layer_{index}" for index in range(self.layers)]
        fields: dict[str, Any] = {"dropout": self.dropout, "dtype": self.dtype}
        x = x.astype(self.dtype)
        if cache is None:
            make = recompute(TransformerBlock, self.remat, static=(3,))
            make_block = partial(make, self.heads, self.layers, **fields)
            x = run_blocks(self, make_block, names, x, seen, train, self.scan)
        else:
            # A cache is for decoding, which has no gradient.
            written: list[LayerCache] = []
            for name, cached in zip(names, cache, strict=True):
                block = TransformerBlock(self.heads, self.layers, **fields, name=name)
                x, of_layer = block(x, seen, train, cached, start)
                written.append(of_layer)
            cache = tuple(written)
        return norm("last_norm")(x), cache


def check_sizes(network: Any) -> None:
    """Checks the sizes of a module with a transformer: width, layers, heads and dropout.

    Raises:
        UserError: a size is not positive, the heads do not divide the width, or dropout is not in [0, 1).
    """
    for name in ("width", "layers", "heads"):
        if getattr(network, name) < 1:
            raise UserError(f"config.network.{name}={getattr(network, name)}: give a positive number")
    split_heads(network.width, network.heads)
    if not 0 <= network.dropout < 1:
        raise UserError(f"config.network.dropout={network.dropout}: choose 0 or more, and less than 1")
    lookup(REMAT, network.remat, "network.remat")
