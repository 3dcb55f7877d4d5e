"""Which array of a training state is cut along which mesh axis."""

import math
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding

from imagen_jax.errors import UserError
from imagen_jax.sharding.axes import BATCH_AXES, AnyMesh, storage_spec, to_partition_spec

Path = tuple[str, ...]


def replicated(mesh: AnyMesh) -> NamedSharding:
    """A whole copy on each device."""
    return NamedSharding(mesh, PartitionSpec())


def num_batch_shards(mesh: Mesh) -> int:
    """The number of parts that a batch is cut into."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def batch_placement(mesh: Mesh, batch_size: int) -> NamedSharding:
    """The batch axis cut over every mesh axis but ``tensor``, whose devices work on the same examples.

    Raises:
        UserError: the batch can't be cut evenly over them.
    """
    parts = num_batch_shards(mesh)
    if batch_size % parts:
        raise UserError(f"a batch of {batch_size} does not divide over {parts} devices; make it a multiple of {parts}")
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def place_state(abstract_state: Any, axes: Mapping[str, Any], mesh: AnyMesh) -> Any:
    """A placement for every array of a training state, in the same tree.

    An array that has the shape of a parameter and stands under the parameter's path, as moments and averages do, is cut
    as that is. All else stays whole: biases, counters, and Adafactor's rows and columns, which are thousands of times
    smaller than their kernels.

    Args:
        abstract_state: shapes, from ``jax.eval_shape``.
        axes: names of the axes of each parameter, see ``cascade.stage.parameter_axes``; None for what has none.
        mesh: of all devices.

    Raises:
        UserError: a parameter can't be cut as the mesh wants; says which one.
    """
    named, _ = jax.tree_util.tree_flatten_with_path(axes, is_leaf=is_axes)
    names = {path_of(path): leaf for path, leaf in named}

    def place(path: Any, array: jax.ShapeDtypeStruct) -> NamedSharding:
        found = find_parameter(path_of(path), names)
        if found is None or names[found] is None or len(names[found]) != array.ndim:
            return replicated(mesh)
        try:
            return NamedSharding(mesh, to_partition_spec(storage_spec(array.shape, names[found], mesh)))
        except UserError as error:
            raise UserError(f"{'/'.join(found)}: {error}") from None

    return jax.tree_util.tree_map_with_path(place, abstract_state)


def is_axes(leaf: Any) -> bool:
    """Whether this is what stands in a tree for the names of one parameter's axes."""
    return leaf is None or isinstance(leaf, tuple)


def path_of(path: Any) -> Path:
    """A path of JAX's as names."""
    return tuple(jax.tree_util.keystr(path, simple=True, separator="/").split("/"))


def find_parameter(path: Path, names: Mapping[Path, Any]) -> Path | None:
    """The parameter whose path a path ends with."""
    return next((path[start:] for start in range(len(path)) if path[start:] in names), None)


def describe_placements(placements: Any) -> dict[str, list[Any]]:
    """Each array's path and what each of its axes is cut over, as JSON can hold it; what is whole is left out."""
    leaves = jax.tree_util.tree_flatten_with_path(placements)[0]
    return {"/".join(path_of(path)): list(leaf.spec) for path, leaf in leaves if any(leaf.spec)}


def place_shapes(shapes: Any, placement: Any) -> Any:
    """Shapes with their placements: one for all, or a tree of them like the shapes."""
    if isinstance(placement, Sharding):
        placement = jax.tree.map(lambda _: placement, shapes)
    return jax.tree.map(
        lambda array, place: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=place), shapes, placement
    )
