"""What layers call the axes of their kernels and features, and what that means on a mesh.

A kernel lies in parts and is used whole (Rajbhandari et al. 2020, "ZeRO", stage 3), and a cut over ``tensor`` stays
where it is while it is used (Shoeybi et al. 2019, "Megatron-LM"):

    stored    cut over fsdp along its input axis, and over tensor along the axis that AXES says
    used      gathered over fsdp in the compute type; its gradient is summed into the stored parts

Said at each use, this makes the compiler gather kernels and sum gradients, and leave the features where they are: a
kernel that merely lies in parts makes it cut the features to match, with hundreds of exchanges of all with all.

Without a mesh around (``jax.set_mesh``) all of this does nothing: a network needs none.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from flax.core import meta
from jax.sharding import AbstractMesh, Mesh, PartitionSpec
from jax.typing import ArrayLike, DTypeLike

from imagen_jax.errors import UserError, lookup

SLICE, DATA, FSDP, TENSOR = "slice", "data", "fsdp", "tensor"
BATCH_AXES = (SLICE, DATA, FSDP)
"""The mesh axes that examples are cut over."""

AXES: dict[str, str | tuple[str, ...] | None] = {
    "batch": BATCH_AXES,
    "height": None,
    "width": None,
    "places": None,
    "taps": None,
    "channels": None,
    "vocabulary": None,
    "hidden": TENSOR,
    "heads": TENSOR,
    "head_channels": None,
}
"""The mesh axis that each named axis is cut over while it is computed with; None: whole.

hidden: channels inside a block, made by one layer and summed by the next. channels: all others.
"""

MIN_SHARDED_SIZE = 2**14
"""Arrays with fewer elements are kept whole on each device: gathering them would cost more than they weigh."""

AnyMesh = Mesh | AbstractMesh


class WithLogicalAxes(struct.PyTreeNode, meta.AxisMetadata[Any]):
    """A new parameter with the names of its axes; Flax hands layers the parameter itself.

    Attributes:
        value: the parameter.
        axes: a key of ``AXES`` for each of its axes.
    """

    value: Any
    axes: tuple[str, ...] = struct.field(pytree_node=False)

    def unbox(self) -> Any:
        """The parameter."""
        return self.value

    def replace_boxed(self, val: Any) -> "WithLogicalAxes":
        """Another parameter under the same names."""
        return self.replace(value=val)

    def add_axis(self, index: int, params: dict[Any, Any]) -> "WithLogicalAxes":
        """Refuses: no layer of ours is lifted over an axis of its parameters."""
        raise NotImplementedError("a parameter with named axes gets no further ones")

    remove_axis = add_axis


def with_logical_axes(initializer: Callable[..., jax.Array], axes: Sequence[str]) -> Callable[..., WithLogicalAxes]:
    """An initializer whose parameters know the names of their axes."""

    def initialize(*arguments: Any) -> WithLogicalAxes:
        return WithLogicalAxes(initializer(*arguments), tuple(axes))

    return initialize


def has_logical_axes(leaf: Any) -> bool:
    """Whether a leaf of a tree of new parameters has names."""
    return isinstance(leaf, WithLogicalAxes)


def remove_logical_axes(params: Any) -> Any:
    """New parameters without the names of their axes."""
    return jax.tree.map(lambda leaf: leaf.value if has_logical_axes(leaf) else leaf, params, is_leaf=has_logical_axes)


def axes_of(params: Any) -> Any:
    """The names alone, in the tree of the parameters; None where there are none.

    Raises:
        ValueError: a matrix or kernel has none.
    """

    def names(path: Any, leaf: Any) -> tuple[str, ...] | None:
        if has_logical_axes(leaf):
            return leaf.axes
        if path[-1].key == "kernel" or (leaf.ndim > 1 and leaf.size >= MIN_SHARDED_SIZE):
            raise ValueError(f"the axes of {jax.tree_util.keystr(path)} have no names: label its initializer")
        return None

    return jax.tree_util.tree_map_with_path(names, params, is_leaf=has_logical_axes)


def compute_spec(axes: Sequence[str], mesh: AnyMesh) -> list[tuple[str, ...]]:
    """The mesh axes that each axis is cut over while it is computed with; axes of the mesh of size one are left out.

    Raises:
        UserError: an unknown name.
    """
    cuts = []
    for name in axes:
        over = lookup(AXES, name, "axis")
        wanted = (over,) if isinstance(over, str) else over or ()
        cuts.append(tuple(axis for axis in wanted if mesh.shape[axis] > 1))
    return cuts


def storage_spec(shape: Sequence[int], axes: Sequence[str], mesh: AnyMesh) -> list[tuple[str, ...]]:
    """The mesh axes that each axis of a kernel is cut over while it lies in memory.

    ``fsdp`` cuts the input axis, the first that is no tap of a convolution: cut along the output axis, many kernels
    would have parts narrower than the 128 lanes that memory is laid out in. Where it does not divide, the next. So does
    ``tensor`` for a kernel that is computed with whole: else the compiler shares the work on its gradient among the
    devices of ``tensor``, and then has to exchange what each has for what it shall have.

    Raises:
        UserError: an unknown name, or the mesh cuts no axis evenly; says which sizes would.
    """
    cuts = compute_spec(axes, mesh)
    if np.prod(shape) < MIN_SHARDED_SIZE:
        return [() for _ in axes]
    for name, size, cut in zip(axes, shape, cuts, strict=True):
        if cut and size % mesh.shape[TENSOR]:
            raise UserError(
                f"config.mesh.tensor={mesh.shape[TENSOR]} does not divide an axis of {size} {name}: choose a divisor"
            )
    over = [axis for axis in (FSDP, TENSOR) if mesh.shape[axis] > 1 and (axis == FSDP or not any(cuts))]
    parts = math.prod(mesh.shape[axis] for axis in over)
    for index, (name, size) in enumerate(zip(axes, shape, strict=True)):
        if name != "taps" and size % (parts * (mesh.shape[TENSOR] if cuts[index] else 1)) == 0:
            cuts[index] = (*cuts[index], *over)
            return cuts
    wanted = " × ".join(f"config.mesh.{axis}={mesh.shape[axis]}" for axis in over)
    raise UserError(
        f"{wanted} divides no axis of a kernel of shape {tuple(shape)}: choose a power of two that does, and leave the "
        "rest of the devices to config.mesh.data"
    )


def to_partition_spec(cuts: Sequence[tuple[str, ...]]) -> PartitionSpec:
    """The same as JAX says it."""
    return PartitionSpec(*[cut if len(cut) > 1 else cut[0] if cut else None for cut in cuts])


def present_mesh() -> AbstractMesh | None:
    """The mesh that is set around this call; None where there is none, or it has a single device."""
    mesh = jax.sharding.get_abstract_mesh()
    return None if mesh.empty or mesh.size == 1 else mesh


def constrain(x: jax.Array, *axes: str) -> jax.Array:
    """Says how features are cut, by the names of their axes.

    Raises:
        UserError: an unknown name.
    """
    mesh = present_mesh()
    return x if mesh is None else jax.lax.with_sharding_constraint(x, to_partition_spec(compute_spec(axes, mesh)))


def gather(kernel: ArrayLike, axes: Sequence[str], dtype: DTypeLike) -> jax.Array:
    """A kernel as it is used: in the compute type, and whole but for a cut over ``tensor``.

    Gathered after the conversion, so bfloat16 costs half of the traffic. The gradient is summed over the devices in the
    compute type too, for the compiler sums what each device's convolution made before anything is done with it.
    """
    kernel = jnp.asarray(kernel)
    mesh = present_mesh()
    if mesh is None:
        return kernel.astype(dtype)
    stored, used = storage_spec(kernel.shape, axes, mesh), compute_spec(axes, mesh)
    if stored == used or not any(stored):
        return kernel.astype(dtype)
    return convert_and_place(kernel, dtype, to_partition_spec(stored), to_partition_spec(used))


@partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def convert_and_place(kernel: jax.Array, dtype: DTypeLike, stored: PartitionSpec, used: PartitionSpec) -> jax.Array:
    """``kernel`` in ``dtype`` and placed as ``used``; its gradient in the kernel's type and placed as ``stored``."""
    converted = jax.lax.with_sharding_constraint(kernel.astype(dtype), stored)
    return jax.lax.with_sharding_constraint(converted, used)


def _forward(kernel: jax.Array, dtype: DTypeLike, stored: PartitionSpec, used: PartitionSpec) -> tuple[jax.Array, Any]:
    # Of the kernel only the type is needed, and an empty array carries that.
    return convert_and_place(kernel, dtype, stored, used), jnp.zeros((0,), kernel.dtype)


def _backward(
    dtype: DTypeLike, stored: PartitionSpec, used: PartitionSpec, like: jax.Array, gradient: jax.Array
) -> tuple[jax.Array]:
    return (jax.lax.with_sharding_constraint(gradient.astype(like.dtype), stored),)


convert_and_place.defvjp(_forward, _backward)


def gathering(axes: Sequence[str]) -> Any:
    """What a Flax layer takes as ``promote_dtype``: converts its inputs and bias, gathers its kernel."""

    def promote(
        inputs: ArrayLike, kernel: ArrayLike, bias: ArrayLike | None, *, dtype: DTypeLike
    ) -> tuple[jax.Array, jax.Array, jax.Array | None]:
        return (
            jnp.asarray(inputs, dtype),
            gather(kernel, axes, dtype),
            None if bias is None else jnp.asarray(bias, dtype),
        )

    return promote


def gathering_table(axes: Sequence[str]) -> Any:
    """The same for Flax's embedding, which converts nothing but its table."""

    def promote(table: ArrayLike, *, dtype: DTypeLike, inexact: bool = False) -> tuple[jax.Array]:
        return (gather(table, axes, dtype),)

    return promote
