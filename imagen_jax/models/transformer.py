"""The block of all transformers over sequences of vectors: of text, of the diffusion prior, and of the prior of codes.

    x += attention(norm(x));   x += perceptron(norm(x)),   layer by layer

(Vaswani et al. 2017; the norms as in GPT-2). Initialisation, as OpenAI's code does it for CLIP's text transformer
(Radford et al. 2021, section 2.4). All kernels are normal with mean 0, biases are 0:

    queries, keys, values     width^-1/2
    output of attention       width^-1/2 · (2 layers)^-1/2
    perceptron, first layer   (2 width)^-1/2
    perceptron, second layer  width^-1/2 · (2 layers)^-1/2

So the sum of all residual branches keeps its variance whatever the number of layers. With ``zero_branches`` both
branches of a block start at zero instead. Norms and softmax are computed in float32, everything else in the compute
dtype. Parameters are float32.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from imagen_jax.errors import UserError, lookup
from imagen_jax.models.attending import Key, Mask, attend
from imagen_jax.models.attention import split_heads
from imagen_jax.models.equal_blocks import run_blocks
from imagen_jax.models.layers import split_into_heads
from imagen_jax.models.remat import recompute
from imagen_jax.runtime.backend import computed_once
from imagen_jax.sharding.axes import constrain, gathering, with_logical_axes

States = Float[Array, "batch places width"]
PlaceMask = Bool[Array, "batch places"]
"""True at places that attention sees, such as the tokens of a caption without its padding."""

Position = int | Int[Array, ""]

EPSILON = 1e-5
"""The term in the denominator of each LayerNorm, of OpenAI's models and of PyTorch's default."""

EXPANSION = 4
"""The width inside a perceptron, divided by the transformer's width."""


def exact_gelu(x: jax.Array) -> jax.Array:
    """Returns ``x · Φ(x)``, GELU with the exact error function."""
    return nn.gelu(x, approximate=False)


def quick_gelu(x: jax.Array) -> jax.Array:
    """Returns ``x · sigmoid(1.702 x)``, OpenAI's approximation of GELU."""
    return x * nn.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {"gelu": exact_gelu, "quick_gelu": quick_gelu}


@cache
def normal(deviation: float) -> Any:
    """Returns an initializer with this standard deviation, the same object for the same deviation."""
    return nn.initializers.normal(deviation) if deviation else nn.initializers.zeros_init()


def norm(name: str | None) -> nn.LayerNorm:
    """Returns a LayerNorm in float32; ``name`` is None in ``setup``."""
    return nn.LayerNorm(epsilon=EPSILON, use_fast_variance=False, dtype=jnp.float32, name=name)


def normalise(x: States, name: str) -> States:
    """Applies a LayerNorm in float32 inside the current module; the result has the dtype of ``x``."""
    return norm(name)(x).astype(x.dtype)


def dense(width: int, axes: tuple[str, str], deviation: float, *, dtype: DTypeLike, name: str) -> nn.Dense:
    """Returns a dense layer.

    Args:
        width: the number of outputs.
        axes: the names of the kernel's axes, see ``sharding.axes``.
        deviation: the standard deviation of a new kernel.
        dtype: the compute dtype.
        name: the name of the layer.
    """
    start = with_logical_axes(normal(deviation), axes)
    return nn.Dense(width, kernel_init=start, promote_dtype=gathering(axes), dtype=dtype, name=name)


class LayerCache(NamedTuple):
    """The keys and values of one layer, for all positions of a sequence; zeros where none is written yet.

    Attributes:
        keys: ``(batch, positions, heads, head_channels)``.
        values: the same shape.
    """

    keys: Key
    values: Key


class TransformerBlock(nn.Module):
    """A layer: self-attention, then a perceptron, both after a norm and with a residual connection.

    Attributes:
        heads: the number of attention heads; a divisor of the width.
        layers: the number of layers of the transformer, for the initialisation.
        activation: a key of ``ACTIVATIONS``.
        dropout: the rate at the output of attention and perceptron.
        zero_branches: whether the last kernels of both branches start at zero.
        recompute_weights: whether the gradient recomputes the attention weights.
        dtype: the compute dtype.
    """

    heads: int
    layers: int
    activation: str = "gelu"
    dropout: float = 0.0
    zero_branches: bool = False
    recompute_weights: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: States,
        seen: Mask | None = None,
        train: bool = False,
        cached: LayerCache | None = None,
        start: Position = 0,
    ) -> Any:
        """Returns the next layer's input; with a cache also the cache, with the keys and values of these states.

        Args:
            x: the states of consecutive places.
            seen: True for the places that attention sees, for all places or for each; None for all.
            train: whether dropout is on.
            cached: keys and values of earlier places.
            start: the place of the first state in the cache.
        """
        width = x.shape[-1]
        residual = 0.0 if self.zero_branches else width**-0.5 * (2 * self.layers) ** -0.5
        drop = nn.Dropout(self.dropout, deterministic=not train)

        shape, normalised = split_heads(width, self.heads), normalise(x, "attention_norm")
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
        attended = attend(query, key, value, seen, self.recompute_weights)
        attended = dense(width, ("heads", "channels"), residual, dtype=self.dtype, name="attention_out")(attended)
        x = computed_once(constrain(x + drop(attended), "batch", "places", "channels"))

        first = dense(EXPANSION * width, ("channels", "hidden"), (2 * width) ** -0.5, dtype=self.dtype, name="expand")
        hidden = constrain(first(normalise(x, "perceptron_norm")), "batch", "places", "hidden")
        second = dense(width, ("hidden", "channels"), residual, dtype=self.dtype, name="contract")
        x = x + drop(second(ACTIVATIONS[self.activation](hidden)))
        x = computed_once(constrain(x, "batch", "places", "channels"))
        return x if cached is None else (x, cached)


def earlier_places(x: States, mask: PlaceMask | None = None) -> Mask:
    """Returns the places that each place attends to in a causal transformer: itself and the earlier ones.

    Args:
        x: the states, ``(batch, places, width)``.
        mask: False at places that no other place attends to; None for none of them.
    """
    batch, places, _ = x.shape
    pairs = jnp.broadcast_to(jnp.tri(places, dtype=bool)[None], (batch, places, places))
    return pairs if mask is None else pairs & mask[:, None, :]


class Transformer(nn.Module):
    """``Transformer(…)(x, mask)``: a sequence of vectors to one of the same shape.

    Attributes:
        width: the size of the vectors.
        layers: the number of layers.
        heads: the number of attention heads; a divisor of ``width``.
        causal: whether a place attends only to itself and earlier ones.
        activation: a key of ``ACTIVATIONS``.
        dropout: the rate at the output of each attention and perceptron.
        final_norm: whether a LayerNorm follows the last layer.
        remat: the activations that the gradient recomputes, see ``models.remat``.
        scan: whether the layers are one loop of the program, see ``models.equal_blocks``; use it with ``remat``.
        dtype: the compute dtype; parameters are float32.
    """

    width: int
    layers: int
    heads: int
    causal: bool = False
    activation: str = "gelu"
    dropout: float = 0.0
    final_norm: bool = True
    remat: str = "none"
    scan: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: States, mask: PlaceMask | None = None, train: bool = False) -> States:
        """Returns the states after the last layer or the last norm, in the compute dtype.

        Args:
            x: the input, ``(batch, places, width)``.
            mask: True at places that attention sees, ``(batch, places)``; None for all. The states at the other places
                have no meaning. A place that may see none attends to all alike.
            train: whether dropout is on, which needs a "dropout" key.

        Raises:
            UserError: the fields contradict each other, or ``x`` has another width.
        """
        lookup(ACTIVATIONS, self.activation, "activation of a transformer")
        split_heads(self.width, self.heads)
        if x.shape[-1] != self.width or self.layers < 1:
            raise UserError(
                f"a transformer with width={self.width} and layers={self.layers} can't take vectors of {x.shape[-1]}: "
                "set its width to theirs, and at least one layer"
            )
        make = recompute(TransformerBlock, self.remat, static=(3,))

        def make_block(**options: Any) -> nn.Module:
            recompute_weights = self.remat == "attention"
            fields = (self.heads, self.layers, self.activation, self.dropout, False, recompute_weights)
            return make(*fields, self.dtype, **options)

        x = constrain(x.astype(self.dtype), "batch", "places", "channels")
        seen = earlier_places(x, mask) if self.causal else mask
        x = run_blocks(self, make_block, [f"layer_{index}" for index in range(self.layers)], x, seen, train, self.scan)
        return normalise(x, "last_norm") if self.final_norm else x
