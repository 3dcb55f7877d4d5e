"""What is kept for the gradient, and what is computed again (Chen et al. 2016, "sublinear memory cost").

Memory against work: a network trains on a chip that would not hold all its features, or is bound by reading and writing
them where it could compute.
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
    """Keeps what kernels make: convolutions and matrix products, but for those of an attention, example by example."""
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
"""What ``network.remat`` may say.

none: all that the gradient needs is kept.
attention: the weights of attentions are computed again, for they are many and cheap (``attention.SelfAttention``).
elementwise: these, and all else but the results of convolutions and dense layers.
blocks: all but the inputs of blocks and attentions; each is computed twice.
"""


def recompute(block: type[Block], remat: str, static: tuple[int, ...] = ()) -> type[Block]:
    """A block or attention that keeps what a policy says; its parameters have the same names as without.

    Args:
        block: the class.
        remat: a key of ``POLICIES``.
        static: places of the arguments of its call that are no arrays; the block itself is argument 0.

    Raises:
        UserError: an unknown policy.
    """
    policy = lookup(POLICIES, remat, "network.remat")
    return block if policy is None else nn.remat(block, policy=policy, static_argnums=static)
