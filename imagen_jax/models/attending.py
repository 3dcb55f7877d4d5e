"""Scaled dot-product attention as the device at hand computes it fastest: one function, two ways.

    TPU, GPU, and bfloat16   two products with a softmax between, in the order of the arrays' axes
    CPU, float32             heads first, and so few examples at a time that the cache holds their weights; the gradient
                             makes weights anew, from the normalisers of the softmax alone

The second is what FlashAttention does for a GPU's memory (Dao et al. 2022, sections 3.1 and B.2), in pieces as large as
examples. XLA by itself writes and reads each weight several times over, in an order that its products cannot take, and
keeps them all for the gradient (``tests/benchmarks/attention.md``).
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
KeyMask = Bool[Array, "batch keys"]
HeadsQuery = Float[Array, "batch heads queries head_channels"]
HeadsKey = Float[Array, "batch heads keys head_channels"]
Scores = Float[Array, "batch heads queries keys"]
OfQuery = Float[Array, "batch heads queries 1"]

MAX_WEIGHTS = 2**22
"""At a time: 16 MiB, half of what two cores' last cache often holds."""

HIDDEN = float(jnp.finfo(jnp.float32).min)
"""The score of a key that does not count; where none counts, all weigh the same."""


def attend(
    query: Query, key: Key, value: Key, mask: KeyMask | None = None, recompute: bool = False
) -> Float[Array, "batch queries channels"]:
    """Scaled dot-product attention (Vaswani et al. 2017, equation 1), softmax in float32.

    Args:
        query: what asks.
        key: what is asked.
        value: what answers.
        mask: keys that count; the others get no weight.
        recompute: the gradient computes the weights anew; on a CPU it always does.
    """
    query, key, value = (constrain(x, "batch", "places", "heads", "head_channels") for x in (query, key, value))
    batch, queries, heads, head_channels = query.shape
    if computes_on_cpu() and {query.dtype, key.dtype, value.dtype} == {jnp.dtype("float32")}:
        answers = attend_in_groups(count_groups(query.shape, key.shape[1]), query, key, value, mask)
    else:
        answers = (jax.checkpoint(attend_as_written) if recompute else attend_as_written)(query, key, value, mask)
    return answers.reshape(batch, queries, heads * head_channels)


def attend_as_written(query: Query, key: Key, value: Key, mask: KeyMask | None) -> Query:
    """The answers of all heads."""
    scores = jnp.einsum("bqhc,bkhc->bhqk", query, key).astype(jnp.float32) / query.shape[-1] ** 0.5
    weights = jax.nn.softmax(hide(scores, mask, HIDDEN), axis=-1).astype(value.dtype)
    return jnp.einsum("bhqk,bkhc->bqhc", weights, value)


def count_groups(shape: tuple[int, ...], keys: int) -> int:
    """Into how many groups of examples a batch is cut, that come one after the other; 1 where devices share it.

    Args:
        shape: of the queries.
        keys: their number.
    """
    batch, queries, heads, _ = shape
    if not computes_on_one_device():
        return 1
    enough = (groups for groups in range(1, batch + 1) if batch % groups == 0)
    return next((groups for groups in enough if batch // groups * heads * queries * keys <= MAX_WEIGHTS), batch)


class Normaliser(NamedTuple):
    """What makes weights of scores, each query's.

    Attributes:
        greatest: the largest score.
        total: the sum of all exponentials, of scores less that.
    """

    greatest: OfQuery
    total: OfQuery


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def attend_in_groups(groups: int, query: Query, key: Key, value: Key, mask: KeyMask | None) -> Query:
    """As ``attend_as_written``, so many groups of examples one after the other."""
    answers, _ = in_groups(answer, groups, query, key, value, mask)
    return answers


def _forward(groups: int, query: Query, key: Key, value: Key, mask: KeyMask | None) -> tuple[Query, Any]:
    answers, normaliser = in_groups(answer, groups, query, key, value, mask)
    return answers, (query, key, value, mask, answers, normaliser)


def _backward(groups: int, kept: Any, gradient: Query) -> tuple[Query, Key, Key, None]:
    # A barrier, without which a compiler finds that the weights were there before, and keeps them.
    return *in_groups(differentiate, groups, *jax.lax.optimization_barrier((*kept, gradient))), None


attend_in_groups.defvjp(_forward, _backward)


@partial(jax.jit, static_argnums=(0, 1))
def in_groups(function: Any, groups: int, *arrays: Any) -> Any:
    """A function's results for a batch, so many groups of examples one after the other."""
    if groups == 1:
        return function(*arrays)
    cut = jax.tree.map(lambda array: array.reshape(groups, -1, *array.shape[1:]), arrays)
    done = jax.lax.map(lambda group: function(*group), cut)
    return jax.tree.map(lambda array: array.reshape(-1, *array.shape[2:]), done)


def answer(query: Query, key: Key, value: Key, mask: KeyMask | None) -> tuple[Query, Normaliser]:
    """The answers, and what it takes to make their weights again."""
    scores = score(heads_first(query), heads_first(key), mask)
    greatest = scores.max(axis=-1, keepdims=True)
    weights = jnp.exp(scores - greatest)
    total = weights.sum(axis=-1, keepdims=True)
    return heads_first(weights @ heads_first(value) / total), Normaliser(greatest, total)


def differentiate(
    query: Query, key: Key, value: Key, mask: KeyMask | None, answers: Query, normaliser: Normaliser, gradient: Query
) -> tuple[Query, Key, Key]:
    """The gradients of query, key and value."""
    query, key, value, gradient, answers = map(heads_first, (query, key, value, gradient, answers))
    weights = jnp.exp(score(query, key, mask) - normaliser.greatest) / normaliser.total
    # The softmax takes from each gradient of a weight their mean by weight, which is that of the answer along it.
    mean = (gradient * answers).sum(axis=-1, keepdims=True)
    of_scores = hide(weights * (gradient @ value.mT - mean), mask, 0.0) / query.shape[-1] ** 0.5
    return heads_first(of_scores @ key), heads_first(of_scores.mT @ query), heads_first(weights.mT @ gradient)


def score(query: HeadsQuery, key: HeadsKey, mask: KeyMask | None) -> Scores:
    """How well each key fits each query."""
    return hide((query / query.shape[-1] ** 0.5) @ key.mT, mask, HIDDEN)


def hide(scores: Scores, mask: KeyMask | None, with_what: float) -> Scores:
    """Writes a number over the scores of keys that do not count."""
    return scores if mask is None else jnp.where(mask[:, None, None, :], scores, with_what)


def heads_first(array: Float[Array, "batch a b head_channels"]) -> Float[Array, "batch b a head_channels"]:
    """Swaps places and heads, either way."""
    return array.swapaxes(1, 2)
