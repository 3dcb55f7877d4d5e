"""Equal blocks, one after another: written out, or as one loop of the program.

    parameters of each block -> stacked -> a scan whose body is the block

A program with the loop is smaller. A loop keeps all that its gradient needs of every turn, also what the compiler
would rather compute again, so it wants ``network.remat`` (measured: ``launch/reports/pods``). The parameters stay those
of the single blocks, and so do checkpoints, placements and exports: they are stacked where they are used, which costs
little where each device holds a part of them.
"""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from imagen_jax.models.layers import Embedding, FeatureMap, NewFeatureMap

MakeBlock = Callable[..., nn.Module]
"""Makes a block of a ``name`` in the module that is being run, or with ``parent=None`` one that belongs to none."""


def run_blocks(
    owner: nn.Module,
    make_block: MakeBlock,
    names: Sequence[str],
    x: FeatureMap,
    embedding: Embedding,
    train: bool,
    scan: bool,
) -> NewFeatureMap:
    """Runs blocks that change neither the shape of the features nor differ but for their parameters.

    Args:
        owner: the module that is being run; the blocks are its own.
        make_block: see ``MakeBlock``.
        names: of the blocks, in order.
        x: features, ``(batch, height, width, channels)``.
        embedding: ``(batch, embedding width)``, the same for all.
        train: whether dropout drops; in a loop its draws are others than in blocks that are written out.
        scan: whether they are one loop.
    """
    if not scan or len(names) < 2 or owner.is_initializing():
        for name in names:
            x = make_block(name=name)(x, embedding, train)
        return x
    block = make_block(parent=None)
    params = [owner.variables["params"][name] for name in names]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *params)
    keys = jax.random.split(owner.make_rng("dropout"), len(names)) if owner.has_rng("dropout") else None

    def run_one(x: jax.Array, of_block: Any) -> tuple[Any, None]:
        params, key = of_block
        rngs = None if key is None else {"dropout": key}
        return block.apply({"params": params}, x, embedding, train, rngs=rngs), None

    x, _ = jax.lax.scan(run_one, x, (stacked, keys))
    return x
