"""Runs equal blocks one after another, either unrolled or as one loop of the program.

    parameters of each block -> stacked -> a scan whose body is the block

The loop makes the program smaller. But a loop stores all that its gradient needs from each iteration, even activations
that the compiler would otherwise recompute, so use it with ``network.remat`` (measured: ``launch/reports/pods``). The
parameters remain those of the single blocks, so checkpoints, shardings and exports do not change. They are stacked
where they are used, which costs little if each device holds a shard of them.
"""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from imagen_jax.models.layers import Embedding, FeatureMap, NewFeatureMap

MakeBlock = Callable[..., nn.Module]
"""Makes a block with a ``name`` in the current module, or with ``parent=None`` an unbound block."""


def run_blocks(
    owner: nn.Module,
    make_block: MakeBlock,
    names: Sequence[str],
    x: FeatureMap,
    embedding: Embedding,
    train: bool,
    scan: bool,
) -> NewFeatureMap:
    """Runs blocks that keep the shape of the features and differ only in their parameters.

    Args:
        owner: the current module, which is the parent of the blocks.
        make_block: makes one block, see ``MakeBlock``.
        names: the names of the blocks, in order.
        x: features, ``(batch, height, width, channels)``.
        embedding: ``(batch, embedding width)``, the same for all.
        train: whether dropout is on. Its masks differ between a loop and unrolled blocks.
        scan: whether to run the blocks as one loop.
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
