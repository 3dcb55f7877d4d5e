"""Selects the activations that the gradient recomputes instead of storing (Chen et al. 2016, "sublinear memory cost").

Rematerialisation trades compute for memory. A network can then train on a chip that cannot hold all its activations. It
can also save time where reading and writing activations is the bottleneck.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import flax.linen as nn
import jax
from jax.extend.core import Primitive

from imagen_jax.errors import lookup
from imagen_jax.models.convolutions import CONVOLUTION

Block = TypeVar("Block", bound=nn.Module)
Policy = Callable[..., bool]


def keep_products(primitive: Primitive, *_: Any, **parameters: Any) -> bool:
    """Saves the results of convolutions and matrix products, except batched products such as those of attention."""
    if primitive is jax.lax.dot_general_p:
        _, batched = parameters["dimension_numbers"]
        return not any(batched)
    return primitive is jax.lax.conv_general_dilated_p or KEEP_CONVOLUTIONS(primitive, *_, **parameters)


KEEP_CONVOLUTIONS = jax.checkpoint_policies.save_only_these_names(CONVOLUTION)

POLICIES: dict[str, Policy | None] = {
    "none": None,
    "attention": None,
    "elementwise": keep_products,
    "blocks": jax.checkpoint_policies.nothing_saveable,
}
"""The values of ``network.remat``.

none: the gradient recomputes nothing.
attention: it recomputes the attention weights, which are large and cheap to compute (``attention.SelfAttention``).
elementwise: it recomputes all except the results of convolutions and dense layers.
blocks: it recomputes all except the inputs of blocks and attentions, so that each of these runs twice.
"""


def recompute(block: type[Block], remat: str, static: tuple[int, ...] = ()) -> type[Block]:
    """Wraps a block or attention in ``nn.remat`` with a policy. The names of its parameters do not change.

    Args:
        block: the class.
        remat: a key of ``POLICIES``.
        static: the indices of call arguments that are not arrays; the block itself is argument 0.

    Raises:
        UserError: ``remat`` is unknown.
    """
    policy = lookup(POLICIES, remat, "network.remat")
    return block if policy is None else nn.remat(block, policy=policy, static_argnums=static)
