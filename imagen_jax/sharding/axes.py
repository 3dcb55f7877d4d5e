"""Logical axis names for kernels and features, and their sharding over the axes of a mesh.

Kernels are stored sharded and gathered for each use (Rajbhandari et al. 2020, "ZeRO", stage 3). Sharding over
``tensor`` remains during use (Shoeybi et al. 2019, "Megatron-LM"):

    stored    sharded over fsdp along the input axis, and over tensor along the axis that AXES names
    used      gathered over fsdp in the compute dtype; its gradient is summed into the stored shards

A sharding constraint at each use makes the compiler gather kernels, sum gradients and leave the features in place.
Without it, the compiler reshards the features to match the stored kernels, with hundreds of all-to-all collectives.

Without a surrounding mesh (``jax.set_mesh``) these functions leave shardings alone, so a network needs no mesh.
"""

import math
from collections.abc import Callable, Sequence
from functools import cache, partial
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
"""The mesh axes that the batch is sharded over."""

AXES: dict[str, str | tuple[str, ...] | None] = {
    "batch": BATCH_AXES,
    "height": None,
    "width": None,
    "places": None,
    "negatives": None,
    "taps": None,
    "channels": None,
    "vocabulary": None,
    "hidden": TENSOR,
    "heads": TENSOR,
    "head_channels": None,
    "unnamed": None,
}
"""The mesh axes that each logical axis is sharded over during computation. None means replicated.

``hidden`` are the channels inside a block: one layer's outputs that the next layer sums over. ``channels`` are all
other channels.
"""

UNNAMED = "unnamed"
"""The name of each axis of a large array whose layer names none, such as a kernel of a plain Flax layer."""

MIN_SHARDED_SIZE = 2**14
"""Arrays with fewer elements are replicated, because gathering them would cost more than the memory saved."""

AnyMesh = Mesh | AbstractMesh


class WithLogicalAxes(struct.PyTreeNode, meta.AxisMetadata[Any]):
    """A newly initialised parameter with its logical axis names. Flax unboxes it before layers use it.

    Attributes:
        value: the parameter.
        axes: one key of ``AXES`` for each axis of the parameter.
    """

    value: Any
    axes: tuple[str, ...] = struct.field(pytree_node=False)

    def unbox(self) -> Any:
        """Returns the parameter."""
        return self.value

    def replace_boxed(self, val: Any) -> "WithLogicalAxes":
        """Returns a box with another parameter and the same axis names."""
        return self.replace(value=val)

    def add_axis(self, index: int, params: dict[Any, Any]) -> "WithLogicalAxes":
        """Always raises, because no layer here uses a Flax lifted transform that adds a parameter axis.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError("a parameter with named axes can't get another axis")

    remove_axis = add_axis


@cache
def with_logical_axes(initializer: Callable[..., jax.Array], axes: tuple[str, ...]) -> Callable[..., WithLogicalAxes]:
    """Returns an initializer that wraps its parameters in ``WithLogicalAxes``."""

    def initialize(*arguments: Any) -> WithLogicalAxes:
        return WithLogicalAxes(initializer(*arguments), axes)

    return initialize


def has_logical_axes(leaf: Any) -> bool:
    """Returns whether a leaf of a tree of new parameters has logical axis names."""
    return isinstance(leaf, WithLogicalAxes)


def remove_logical_axes(params: Any) -> Any:
    """Returns new parameters without their logical axis names."""
    return jax.tree.map(lambda leaf: leaf.value if has_logical_axes(leaf) else leaf, params, is_leaf=has_logical_axes)


def axes_of(params: Any) -> Any:
    """Returns the logical axis names in the tree of the parameters, with None for a parameter without names.

    A kernel of a layer that names no axes, and any other large array of at least two axes, has ``UNNAMED`` ones.
    """

    def names(path: Any, leaf: Any) -> tuple[str, ...] | None:
        if has_logical_axes(leaf):
            return leaf.axes
        if path[-1].key == "kernel" or (leaf.ndim > 1 and leaf.size >= MIN_SHARDED_SIZE):
            return (UNNAMED,) * leaf.ndim
        return None

    return jax.tree_util.tree_map_with_path(names, params, is_leaf=has_logical_axes)


def unnamed_parameters(axes: Any) -> list[str]:
    """Returns the paths of the parameters whose axes are ``UNNAMED``, from the tree that ``axes_of`` returns."""
    leaves = jax.tree_util.tree_flatten_with_path(axes, is_leaf=lambda leaf: leaf is None or isinstance(leaf, tuple))[0]
    return [jax.tree_util.keystr(path, simple=True, separator="/") for path, leaf in leaves if leaf and UNNAMED in leaf]


def compute_spec(axes: Sequence[str], mesh: AnyMesh) -> list[tuple[str, ...]]:
    """Returns the mesh axes that each array axis is sharded over during computation, without mesh axes of size one.

    Raises:
        UserError: a name is not in ``AXES``.
    """
    spec = []
    for name in axes:
        over = lookup(AXES, name, "axis")
        wanted = (over,) if isinstance(over, str) else over or ()
        spec.append(tuple(axis for axis in wanted if mesh.shape[axis] > 1))
    return spec


def storage_spec(shape: Sequence[int], axes: Sequence[str], mesh: AnyMesh) -> list[tuple[str, ...]]:
    """Returns the mesh axes that each axis of a kernel is sharded over in storage.

    ``fsdp`` shards the input axis, the first axis that is not a tap of a convolution, or the next axis that it divides.
    Sharding the output axis would give many kernels shards narrower than the 128 lanes of the memory layout.

    ``tensor`` shards the same axis if the computation uses the kernel unsharded. Otherwise the compiler splits the work
    on the kernel's gradient over ``tensor`` in another way, and then needs collectives to reshard the gradient.

    Arrays with fewer than ``MIN_SHARDED_SIZE`` elements are not sharded. One whose axes are ``UNNAMED`` is sharded
    along its largest axis that both sizes divide, else that ``fsdp`` divides, and replicated if there is none.

    Raises:
        UserError: a name is not in ``AXES``, ``tensor`` does not divide an axis that it must shard, or no axis of the
            kernel divides evenly. The message says which mesh size to change.
    """
    spec = compute_spec(axes, mesh)
    if np.prod(shape) < MIN_SHARDED_SIZE:
        return [() for _ in axes]
    for name, size, mesh_axes in zip(axes, shape, spec, strict=True):
        if mesh_axes and size % mesh.shape[TENSOR]:
            raise UserError(
                f"config.mesh.tensor={mesh.shape[TENSOR]} does not divide an axis of {size} {name}: choose a divisor"
            )
    if UNNAMED in axes:
        return largest_axis_spec(shape, mesh)
    over = [axis for axis in (FSDP, TENSOR) if mesh.shape[axis] > 1 and (axis == FSDP or not any(spec))]
    parts = math.prod(mesh.shape[axis] for axis in over)
    for index, (name, size) in enumerate(zip(axes, shape, strict=True)):
        if name != "taps" and size % (parts * (mesh.shape[TENSOR] if spec[index] else 1)) == 0:
            spec[index] = (*spec[index], *over)
            return spec
    wanted = " × ".join(f"config.mesh.{axis}={mesh.shape[axis]}" for axis in over)
    raise UserError(
        f"{wanted} divides no axis of a kernel of shape {tuple(shape)}: choose a power of two that does, and leave the "
        "rest of the devices to config.mesh.data"
    )


def largest_axis_spec(shape: Sequence[int], mesh: AnyMesh) -> list[tuple[str, ...]]:
    """Returns the mesh axes for each axis of an array without names, see ``storage_spec``."""
    spec: list[tuple[str, ...]] = [() for _ in shape]
    for wanted in ((FSDP, TENSOR), (FSDP,)):
        over = tuple(axis for axis in wanted if mesh.shape[axis] > 1)
        parts = math.prod(mesh.shape[axis] for axis in over)
        divisible = [index for index, size in enumerate(shape) if size % parts == 0]
        if over and divisible:
            spec[max(divisible, key=lambda index: shape[index])] = over
            break
    return spec


def to_partition_spec(spec: Sequence[tuple[str, ...]]) -> PartitionSpec:
    """Returns the ``PartitionSpec`` with these mesh axes for each array axis."""
    return PartitionSpec(*[axes if len(axes) > 1 else axes[0] if axes else None for axes in spec])


def present_mesh() -> AbstractMesh | None:
    """Returns the mesh that ``jax.set_mesh`` has set; None if there is none or it has a single device."""
    mesh = jax.sharding.get_abstract_mesh()
    return None if mesh.empty or mesh.size == 1 else mesh


def constrain(x: jax.Array, *axes: str) -> jax.Array:
    """Constrains the sharding of features by the logical names of their axes. Without a mesh it returns ``x``.

    Raises:
        UserError: a name is not in ``AXES``.
    """
    mesh = present_mesh()
    return x if mesh is None else jax.lax.with_sharding_constraint(x, to_partition_spec(compute_spec(axes, mesh)))


def gather(kernel: ArrayLike, axes: Sequence[str], dtype: DTypeLike) -> jax.Array:
    """Returns a kernel for computation: in ``dtype``, and sharded over ``tensor`` alone, if at all.

    The kernel is gathered after the conversion, so bfloat16 halves the traffic. The gradient is also summed over the
    devices in ``dtype``: the compiler sums each device's gradient before any other operation on it.

    Raises:
        UserError: as in ``storage_spec``.
    """
    kernel = jnp.asarray(kernel)
    mesh = present_mesh()
    if mesh is None:
        return kernel.astype(dtype)
    stored, used = storage_spec(kernel.shape, axes, mesh), compute_spec(axes, mesh)
    if stored == used or not any(stored):
        return kernel.astype(dtype)
    return convert_and_shard(kernel, dtype, to_partition_spec(stored), to_partition_spec(used))


@partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def convert_and_shard(kernel: jax.Array, dtype: DTypeLike, stored: PartitionSpec, used: PartitionSpec) -> jax.Array:
    """Returns ``kernel`` in ``dtype``, sharded as ``used``.

    The gradient has the kernel's dtype and is sharded as ``stored``.
    """
    converted = jax.lax.with_sharding_constraint(kernel.astype(dtype), stored)
    return jax.lax.with_sharding_constraint(converted, used)


def _forward(kernel: jax.Array, dtype: DTypeLike, stored: PartitionSpec, used: PartitionSpec) -> tuple[jax.Array, Any]:
    # The backward pass needs only the kernel's dtype. An empty array carries it.
    return convert_and_shard(kernel, dtype, stored, used), jnp.zeros((0,), kernel.dtype)


def _backward(
    dtype: DTypeLike, stored: PartitionSpec, used: PartitionSpec, like: jax.Array, gradient: jax.Array
) -> tuple[jax.Array]:
    return (jax.lax.with_sharding_constraint(gradient.astype(like.dtype), stored),)


convert_and_shard.defvjp(_forward, _backward)


@cache
def gathering(axes: tuple[str, ...]) -> Any:
    """Returns a ``promote_dtype`` for a Flax layer that converts inputs and bias, and gathers the kernel."""

    def promote(
        inputs: ArrayLike, kernel: ArrayLike, bias: ArrayLike | None, *, dtype: DTypeLike
    ) -> tuple[jax.Array, jax.Array, jax.Array | None]:
        return (
            jnp.asarray(inputs, dtype),
            gather(kernel, axes, dtype),
            None if bias is None else jnp.asarray(bias, dtype),
        )

    return promote


@cache
def gathering_table(axes: tuple[str, ...]) -> Any:
    """Returns a ``promote_dtype`` for Flax's ``Embed`` that gathers the embedding table, its only argument."""

    def promote(table: ArrayLike, *, dtype: DTypeLike, inexact: bool = False) -> tuple[jax.Array]:
        return (gather(table, axes, dtype),)

    return promote
