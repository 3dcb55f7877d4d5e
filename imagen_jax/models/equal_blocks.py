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

MakeBlock = Callable[..., nn.Module]
"""Makes a block with a ``name`` in the current module, or with ``parent=None`` an unbound block."""


def run_blocks(
    owner: nn.Module,
    make_block: MakeBlock,
    names: Sequence[str],
    x: jax.Array,
    told: Any,
    train: bool,
    scan: bool,
) -> Any:
    """Runs blocks that keep the shape of the features and differ only in their parameters.

    Each is called as ``block(x, told, train)``, and its result is the next one's ``x``.

    Args:
        owner: the current module, which is the parent of the blocks.
        make_block: makes one block, see ``MakeBlock``.
        names: the names of the blocks, in order.
        x: features, such as ``(batch, height, width, channels)``.
        told: what all blocks are told, such as the embedding of the time; arrays or None.
        train: whether dropout is on. Its masks differ between a loop and unrolled blocks.
        scan: whether to run the blocks as one loop.
    """
    if not scan or len(names) < 2 or owner.is_initializing():
        for name in names:
            x = make_block(name=name)(x, told, train)
        return x
    block = make_block(parent=None)
    params = [owner.variables["params"][name] for name in names]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *params)
    keys = jax.random.split(owner.make_rng("dropout"), len(names)) if owner.has_rng("dropout") else None

    def run_one(x: jax.Array, of_block: Any) -> tuple[Any, None]:
        params, key = of_block
        rngs = None if key is None else {"dropout": key}
        return block.apply({"params": params}, x, told, train, rngs=rngs), None

    x, _ = jax.lax.scan(run_one, x, (stacked, keys))
    return x
