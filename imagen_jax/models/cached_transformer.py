"""A transformer that normalises before each sub-layer, with a cache of keys and values for decoding step by step.

    x += attention(norm(x));   x += perceptron(norm(x)),   layer by layer;   a last norm

Without a cache it runs over a whole sequence, for training. With one it takes the next states alone, writes their keys
and values into the cache, and attends over it, so each further token costs as much as the one before. Both are the same
numbers. Which keys a query sees is the caller's to say.

Initialisation, of kernels that multiply n channels: deviation n^-1/2; the two layers that add to the residual stream
have (2 layers)^-1/2 of it, so that the sum of all branches keeps its variance whatever the number of layers.

Norms and softmax are computed in float32, everything else in the compute dtype. Parameters are float32.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from imagen_jax.errors import UserError, lookup
from imagen_jax.models.attending import HIDDEN, Key, Query
from imagen_jax.models.attention import split_heads
from imagen_jax.models.layers import dense, split_into_heads
from imagen_jax.models.remat import POLICIES, recompute
from imagen_jax.sharding.axes import constrain, gathering, with_logical_axes

States = Float[Array, "batch positions width"]
Seen = Bool[Array, "batch queries keys"]
"""True where a query attends to a key."""

Position = int | Int[Array, ""]

REMAT = {name: POLICIES[name] for name in ("none", "elementwise", "blocks")}
"""The values of ``remat``, as in ``models.remat``."""


class LayerCache(NamedTuple):
    """The keys and values of one layer, for all positions of a sequence; zeros where none is written yet.

    Attributes:
        keys: ``(batch, positions, heads, head_channels)``.
        values: the same shape.
    """

    keys: Key
    values: Key


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


@cache
def residual_start(layers: int) -> Any:
    """Returns the initializer of a layer that adds to the residual stream; the same object for equal ``layers``."""
    return nn.initializers.variance_scaling(1 / (2 * layers), "fan_in", "truncated_normal")


def residual_dense(width: int, inputs: str, layers: int, dtype: DTypeLike, name: str) -> nn.Dense:
    """Returns a dense layer that adds to the residual stream.

    Args:
        width: number of outputs.
        inputs: the name of the kernel's input axis, see ``sharding.axes``.
        layers: number of layers of the transformer.
        dtype: the compute dtype.
        name: the name of the layer.
    """
    axes = (inputs, "channels")
    start = with_logical_axes(residual_start(layers), axes)
    return nn.Dense(width, kernel_init=start, promote_dtype=gathering(axes), dtype=dtype, name=name)


def norm(name: str | None) -> nn.LayerNorm:
    """Returns a LayerNorm in float32; ``name`` is None in ``setup``."""
    return nn.LayerNorm(epsilon=1e-5, use_fast_variance=False, dtype=jnp.float32, name=name)


def attend_seen(query: Query, key: Key, value: Key, seen: Seen) -> Query:
    """Returns scaled dot-product attention (Vaswani et al. 2017, equation 1), with the softmax in float32."""
    scores = jnp.einsum("bqhc,bkhc->bhqk", query, key, preferred_element_type=jnp.float32) / query.shape[-1] ** 0.5
    weights = jax.nn.softmax(jnp.where(seen[:, None], scores, HIDDEN), axis=-1).astype(value.dtype)
    return jnp.einsum("bhqk,bkhc->bqhc", weights, value)


class Block(nn.Module):
    """A layer: self-attention, then a perceptron of four times the width, both with a residual connection.

    Attributes:
        heads: the number of attention heads; a divisor of the width.
        layers: the number of layers of the transformer, for the initialisation.
        dropout: rate of dropout of what each sub-layer adds.
        dtype: the compute dtype.
    """

    heads: int
    layers: int
    dropout: float = 0.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: States, seen: Seen, train: bool, cached: LayerCache | None = None, start: Position = 0
    ) -> tuple[States, LayerCache | None]:
        """Returns the next layer's input, and the cache with the keys and values of these states written to it."""
        width = x.shape[-1]
        normalised = norm("attention_norm")(x)
        shape = split_heads(width, self.heads)
        query, key, value = (
            split_into_heads(shape, dtype=self.dtype, name=name)(normalised) for name in ("query", "key", "value")
        )
        if cached is not None:
            written = (
                jax.lax.dynamic_update_slice_in_dim(old, new, start, axis=1)
                for old, new in zip(cached, (key, value), strict=True)
            )
            cached = LayerCache(*written)
            key, value = cached
        query, key, value = (
            constrain(part, "batch", "places", "heads", "head_channels") for part in (query, key, value)
        )
        attended = attend_seen(query, key, value, seen).reshape(x.shape)
        x = x + self.drop(residual_dense(width, "heads", self.layers, self.dtype, "out")(attended), train)
        x = constrain(x, "batch", "places", "channels")
        hidden = dense(4 * width, outputs="hidden", dtype=self.dtype, name="expand")(norm("perceptron_norm")(x))
        hidden = constrain(nn.gelu(hidden), "batch", "places", "hidden")
        x = x + self.drop(residual_dense(width, "hidden", self.layers, self.dtype, "contract")(hidden), train)
        return constrain(x, "batch", "places", "channels"), cached

    def drop(self, x: States, train: bool) -> States:
        """Applies dropout in training."""
        return nn.Dropout(self.dropout, deterministic=not train)(x) if self.dropout else x


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
        names = [f"layer_{index}" for index in range(self.layers)]
        x = x.astype(self.dtype)
        if cache is None and self.scan and self.layers > 1 and not self.is_initializing():
            x = self.run_scanned(names, x, seen, train)
        else:
            lookup(REMAT, self.remat, "network.remat")
            written: list[Any] = []
            # A cache is for decoding, which has no gradient.
            make = Block if cache is not None else recompute(Block, self.remat, static=(3,))
            for index, name in enumerate(names):
                block = make(self.heads, self.layers, self.dropout, self.dtype, name=name)
                x, of_layer = block(x, seen, train, None if cache is None else cache[index], start)
                written.append(of_layer)
            cache = None if cache is None else tuple(written)
        return norm("last_norm")(x), cache

    def run_scanned(self, names: Sequence[str], x: States, seen: Seen, train: bool) -> States:
        """Runs the layers as one loop, whose body is a layer. The parameters remain those of the single layers."""
        params = [self.variables["params"][name] for name in names]
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *params)
        keys = jax.random.split(self.make_rng("dropout"), len(names)) if self.has_rng("dropout") else None
        make = recompute(Block, self.remat, static=(3,))
        block = make(self.heads, self.layers, self.dropout, self.dtype, parent=None)

        def run_one(x: jax.Array, of_layer: Any) -> tuple[Any, None]:
            params, key = of_layer
            rngs = None if key is None else {"dropout": key}
            return block.apply({"params": params}, x, seen, train, rngs=rngs)[0], None

        return jax.lax.scan(run_one, x, (stacked, keys))[0]


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
