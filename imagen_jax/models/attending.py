"""Scaled dot-product attention in the fastest way for the device: one function, two algorithms.

    TPU, GPU, and bfloat16   two products with a softmax between them, in the given order of the axes
    CPU, float32             heads first, and in groups of examples whose weights fit into the cache; the gradient
                             recomputes the weights from the normalisers of the softmax

The second is FlashAttention's idea for a GPU's memory (Dao et al. 2022, sections 3.1 and B.2), with examples as blocks.
Without it, XLA reads and writes each weight several times, in an order of axes that its products cannot use, and stores
all weights for the gradient (``tests/benchmarks/attention.md``).
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from imagen_jax.runtime.backend import computes_on_cpu, computes_on_one_device
from imagen_jax.sharding.axes import constrain

Query = Float[Array, "batch queries heads head_channels"]
Key = Float[Array, "batch keys heads head_channels"]
Mask = Bool[Array, "batch keys"] | Bool[Array, "batch queries keys"]
"""True for keys to attend to: the same for all queries, or for each query, as in causal attention."""

HeadsQuery = Float[Array, "batch heads queries head_channels"]
HeadsKey = Float[Array, "batch heads keys head_channels"]
Scores = Float[Array, "batch heads queries keys"]
OfQuery = Float[Array, "batch heads queries 1"]

MAX_WEIGHTS = 2**22
"""The max number of attention weights in a group: 16 MiB, half of a common last-level cache of two cores."""

HIDDEN = float(jnp.finfo(jnp.float32).min)
"""The score of a masked key. If all keys are masked, all have the same weight."""


def attend(
    query: Query, key: Key, value: Key, mask: Mask | None = None, recompute: bool = False
) -> Float[Array, "batch queries channels"]:
    """Computes scaled dot-product attention (Vaswani et al. 2017, equation 1), with the softmax in float32.

    Args:
        query: the queries, ``(batch, queries, heads, head_channels)``.
        key: the keys, ``(batch, keys, heads, head_channels)``.
        value: the values, one per key.
        mask: True for keys to attend to, ``(batch, keys)`` or ``(batch, queries, keys)``; the others get no weight.
        recompute: whether the gradient recomputes the weights. On a CPU in float32 it always does.
    """
    query, key, value = (constrain(x, "batch", "places", "heads", "head_channels") for x in (query, key, value))
    batch, queries, heads, head_channels = query.shape
    if computes_on_cpu() and {query.dtype, key.dtype, value.dtype} == {jnp.dtype("float32")}:
        outputs = attend_in_groups(count_groups(query.shape, key.shape[1]), query, key, value, mask)
    else:
        outputs = (jax.checkpoint(attend_as_written) if recompute else attend_as_written)(query, key, value, mask)
    return outputs.reshape(batch, queries, heads * head_channels)


def attend_as_written(query: Query, key: Key, value: Key, mask: Mask | None) -> Query:
    """Computes attention as two products with a softmax between them."""
    scores = jnp.einsum("bqhc,bkhc->bhqk", query, key).astype(jnp.float32) / query.shape[-1] ** 0.5
    weights = jax.nn.softmax(hide(scores, mask, HIDDEN), axis=-1).astype(value.dtype)
    return jnp.einsum("bhqk,bkhc->bqhc", weights, value)


def count_groups(shape: tuple[int, ...], keys: int) -> int:
    """Returns the min number of equal groups of examples with at most ``MAX_WEIGHTS`` weights each.

    If there is none, each example is a group. On several devices, the batch is one group.

    Args:
        shape: the shape of the queries, ``(batch, queries, heads, head_channels)``.
        keys: the number of keys.
    """
    batch, queries, heads, _ = shape
    if not computes_on_one_device():
        return 1
    enough = (groups for groups in range(1, batch + 1) if batch % groups == 0)
    return next((groups for groups in enough if batch // groups * heads * queries * keys <= MAX_WEIGHTS), batch)


class Normaliser(NamedTuple):
    """The numbers that turn scores into weights, for each query.

    Attributes:
        greatest: the max score.
        total: the sum of ``exp(score - greatest)``.
    """

    greatest: OfQuery
    total: OfQuery


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def attend_in_groups(groups: int, query: Query, key: Key, value: Key, mask: Mask | None) -> Query:
    """Computes ``attend_as_written`` for ``groups`` groups of examples, one after the other."""
    outputs, _ = in_groups(attend_with_normaliser, groups, query, key, value, mask)
    return outputs


def _forward(groups: int, query: Query, key: Key, value: Key, mask: Mask | None) -> tuple[Query, Any]:
    outputs, normaliser = in_groups(attend_with_normaliser, groups, query, key, value, mask)
    return outputs, (query, key, value, mask, outputs, normaliser)


def _backward(groups: int, kept: Any, gradient: Query) -> tuple[Query, Key, Key, None]:
    # Without the barrier, the compiler would reuse the weights of the forward pass, and so store them.
    return *in_groups(differentiate, groups, *jax.lax.optimization_barrier((*kept, gradient))), None


attend_in_groups.defvjp(_forward, _backward)


@partial(jax.jit, static_argnums=(0, 1))
def in_groups(function: Any, groups: int, *arrays: Any) -> Any:
    """Applies a function to ``groups`` groups of a batch, one after the other, and returns the joined results."""
    if groups == 1:
        return function(*arrays)
    grouped = jax.tree.map(lambda array: array.reshape(groups, -1, *array.shape[1:]), arrays)
    done = jax.lax.map(lambda group: function(*group), grouped)
    return jax.tree.map(lambda array: array.reshape(-1, *array.shape[2:]), done)


def attend_with_normaliser(query: Query, key: Key, value: Key, mask: Mask | None) -> tuple[Query, Normaliser]:
    """Returns the attention outputs, and the normalisers from which the weights can be recomputed."""
    scores = score(heads_first(query), heads_first(key), mask)
    greatest = scores.max(axis=-1, keepdims=True)
    weights = jnp.exp(scores - greatest)
    total = weights.sum(axis=-1, keepdims=True)
    return heads_first(weights @ heads_first(value) / total), Normaliser(greatest, total)


def differentiate(
    query: Query, key: Key, value: Key, mask: Mask | None, outputs: Query, normaliser: Normaliser, gradient: Query
) -> tuple[Query, Key, Key]:
    """Returns the gradients of query, key and value."""
    query, key, value, gradient, outputs = map(heads_first, (query, key, value, gradient, outputs))
    weights = jnp.exp(score(query, key, mask) - normaliser.greatest) / normaliser.total
    # The gradient through a softmax subtracts the weighted mean of the weights' gradients. This mean is the dot product
    # of the output and its gradient.
    mean = (gradient * outputs).sum(axis=-1, keepdims=True)
    of_scores = hide(weights * (gradient @ value.mT - mean), mask, 0.0) / query.shape[-1] ** 0.5
    return heads_first(of_scores @ key), heads_first(of_scores.mT @ query), heads_first(weights.mT @ gradient)


def score(query: HeadsQuery, key: HeadsKey, mask: Mask | None) -> Scores:
    """Returns the scaled dot product of each query and key, with masked keys at ``HIDDEN``."""
    return hide((query / query.shape[-1] ** 0.5) @ key.mT, mask, HIDDEN)


def hide(scores: Scores, mask: Mask | None, with_what: float) -> Scores:
    """Replaces the scores of masked keys by a number."""
    if mask is None:
        return scores
    return jnp.where(mask[:, None, None, :] if mask.ndim == 2 else mask[:, None], scores, with_what)


def heads_first(array: Float[Array, "batch a b head_channels"]) -> Float[Array, "batch b a head_channels"]:
    """Swaps the axes of positions and heads, in either direction."""
    return array.swapaxes(1, 2)
