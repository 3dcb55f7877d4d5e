"""Gradients of a loss of a whole batch's embeddings, when its examples are embedded in parts.

A contrastive loss compares each example with all others, so the mean of the losses of micro-batches is another loss,
with fewer negatives. ``differentiate_cached`` embeds all micro-batches before it computes the loss.

    micro-batches -> embed, without gradient -> all embeddings -> loss, gradient of the embeddings
    micro-batches -> embed again -> gradient of the parameters, summed

``sharpness_aware`` is SAM (Foret et al. 2021, arXiv 2010.01412), with which unCLIP trains its CLIP.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from imagen_jax.array_types import RandomKey, Scalar
from imagen_jax.sharding.axes import BATCH_AXES, present_mesh
from imagen_jax.training.state import Params
from imagen_jax.training.step import Batch, Differentiate, join_batch, split_batch

Embed = Callable[[Params, Batch, RandomKey], Any]
"""``embed(params, batch, key)``: a tree of arrays with the examples on the first axis."""

LossOfEmbeddings = Callable[[Params, Any, Batch], tuple[Scalar, Any]]
"""``loss(params, embeddings, batch)``: the loss of the whole batch, and metrics."""

MIN_NORM = 1e-12


def differentiate_whole(embed: Embed, loss: LossOfEmbeddings) -> Differentiate:
    """Makes the gradient of the loss of a batch that is embedded at once."""

    def loss_of_batch(params: Params, batch: Batch, key: RandomKey) -> tuple[Scalar, Any]:
        return loss(params, embed(params, batch, key), batch)

    return jax.value_and_grad(loss_of_batch, has_aux=True)


def differentiate_cached(embed: Embed, loss: LossOfEmbeddings, pieces: int) -> Differentiate:
    """Makes the same gradient with the memory of a micro-batch (Gao et al. 2021, arXiv 2101.06983, "GradCache").

    It costs one more forward pass. Both passes of a micro-batch have the same key, and so the same dropout. Up to
    dropout and rounding, the gradient is that of ``differentiate_whole``.

    Args:
        embed: embeds a micro-batch.
        loss: the loss of the whole batch's embeddings.
        pieces: number of micro-batches, a divisor of the batch size.
    """

    def differentiate(params: Params, batch: Batch, key: RandomKey) -> tuple[tuple[Scalar, Any], Params]:
        micro_batches = split_batch(batch, pieces), jax.random.split(key, pieces)
        _, embedded = jax.lax.scan(lambda carry, piece: (carry, embed(params, *piece)), None, micro_batches)
        of_loss = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
        answer, (gradient, of_embeddings) = of_loss(params, join_batch(embedded), batch)

        def add_piece(total: Params, piece: Any) -> tuple[Params, None]:
            micro_batch, key, gradient = piece
            _, pull_back = jax.vjp(lambda params: embed(params, micro_batch, key), params)
            return jax.tree.map(jnp.add, total, pull_back(gradient)[0]), None

        total, _ = jax.lax.scan(add_piece, gradient, (*micro_batches, split_batch(of_embeddings, pieces)))
        return answer, total

    return differentiate


def sharpness_aware(differentiate: Differentiate, rho: float) -> Differentiate:
    """Wraps a gradient into that of SAM: taken where the loss is highest nearby (Foret et al. 2021, equation 2).

    The loss and its metrics are those of the parameters themselves. It takes twice the time.

    Args:
        differentiate: the gradient of the whole batch.
        rho: length ρ of the step uphill, in the space of all parameters.
    """

    def of_neighbour(params: Params, batch: Batch, key: RandomKey) -> tuple[tuple[Scalar, Any], Params]:
        answer, gradient = differentiate(params, batch, key)
        _, gradient = differentiate(step_uphill(params, gradient, rho), batch, key)
        return answer, gradient

    return of_neighbour


def sharpness_aware_in_shares(embed: Embed, loss: LossOfEmbeddings, rho: float, share: int) -> Differentiate:
    """Makes the gradient of SAM whose step uphill differs for each share of the batch (m-sharpness, section 4.1).

    unCLIP's CLIP is trained so, with "perturbations applied independently by the replicas", of 64 examples each (Ramesh
    et al. 2022, appendix C). Each share steps uphill on the loss of its own examples, and is embedded there. The loss
    of the step is that of the whole batch. Parameters that only the loss has, such as a temperature, stay where they
    are. Each share has parameters of its own, so a device holds as many copies as it has shares: they fit only if the
    parameters are not sharded.

    Args:
        embed: embeds a share.
        loss: the loss of the embeddings of a share, and of the whole batch.
        rho: length ρ of the step uphill.
        share: number of examples m of a share, a divisor of the batch size.
    """

    def differentiate(params: Params, batch: Batch, key: RandomKey) -> tuple[tuple[Scalar, Any], Params]:
        count = jax.tree.leaves(batch)[0].shape[0] // share
        shares = jax.tree.map(lambda array: over_batch(array.reshape(count, share, *array.shape[1:])), batch)
        keys = jax.random.split(key, count)

        def uphill(of_share: Batch, key: RandomKey) -> Params:
            gradient = jax.grad(lambda params: loss(params, embed(params, of_share, key), of_share)[0])(params)
            return step_uphill(params, gradient, rho)

        neighbours = jax.tree.map(over_batch, jax.vmap(uphill)(shares, keys))

        def loss_of_all(params: Params, neighbours: Params) -> tuple[Scalar, Any]:
            embedded = jax.vmap(embed)(neighbours, shares, keys)
            whole = jax.tree.map(lambda array: array.reshape(-1, *array.shape[2:]), embedded)
            return loss(params, whole, batch)

        of_loss = jax.value_and_grad(loss_of_all, argnums=(0, 1), has_aux=True)
        answer, (gradient, of_neighbours) = of_loss(params, neighbours)
        return answer, jax.tree.map(lambda one, each: one + each.sum(axis=0), gradient, of_neighbours)

    return differentiate


def step_uphill(params: Params, gradient: Params, rho: float) -> Params:
    """Moves parameters by the length ``rho`` along a gradient."""
    factor = rho / jnp.maximum(optax.tree.norm(gradient), MIN_NORM)
    return jax.lax.stop_gradient(jax.tree.map(lambda param, slope: param + factor * slope, params, gradient))


def over_batch(array: jax.Array) -> jax.Array:
    """Constrains the first axis to be sharded as a batch is. Without a mesh it returns the array."""
    mesh = present_mesh()
    if mesh is None:
        return array
    axes = tuple(axis for axis in BATCH_AXES if mesh.shape[axis] > 1)
    return jax.lax.with_sharding_constraint(array, jax.sharding.PartitionSpec(axes or None))
