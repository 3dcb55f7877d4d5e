"""Shardings for every array of a training state, and for batches."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding

from imagen_jax.errors import UserError
from imagen_jax.sharding.axes import BATCH_AXES, AnyMesh, storage_spec, to_partition_spec

Path = tuple[str, ...]


def replicated(mesh: AnyMesh) -> NamedSharding:
    """Returns the sharding with a whole copy on each device."""
    return NamedSharding(mesh, PartitionSpec())


def num_batch_shards(mesh: Mesh) -> int:
    """Returns the number of shards of a batch."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def batch_placement(mesh: Mesh, batch_size: int) -> NamedSharding:
    """Returns the sharding of a batch: its first axis over all mesh axes except ``tensor``.

    Devices along ``tensor`` work on the same examples.

    Raises:
        UserError: ``batch_size`` is not a multiple of the number of shards.
    """
    parts = num_batch_shards(mesh)
    if batch_size % parts:
        raise UserError(f"a batch of {batch_size} does not divide over {parts} devices; make it a multiple of {parts}")
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def rows_of_batches(count: int, size: int) -> Iterator[np.ndarray]:
    """Yields the rows of each batch of ``count`` examples; the last is filled with the first, so all have one size."""
    for first in range(0, count, size):
        yield np.arange(first, first + size) % count


def place_state(abstract_state: Any, axes: Mapping[str, Any], mesh: AnyMesh) -> Any:
    """Returns a sharding for every array of a training state, in the same tree.

    An array is sharded like a parameter if its path ends with the parameter's path and it has as many axes. Moments and
    averages are such arrays. All other arrays are replicated: biases, counters, and Adafactor's row and column
    statistics, which are thousands of times smaller than their kernels.

    Args:
        abstract_state: shapes, from ``jax.eval_shape``.
        axes: logical axis names of each parameter, from ``cascade.stage.parameter_axes``; None for one without names.
        mesh: the mesh of all devices.

    Raises:
        UserError: the mesh can't shard a parameter evenly. The message contains the parameter's path.
    """
    named, _ = jax.tree_util.tree_flatten_with_path(axes, is_leaf=is_axes)
    names = {path_of(path): leaf for path, leaf in named}

    def sharding_of(path: Any, array: jax.ShapeDtypeStruct) -> NamedSharding:
        found = find_parameter(path_of(path), names)
        if found is None or names[found] is None or len(names[found]) != array.ndim:
            return replicated(mesh)
        try:
            return NamedSharding(mesh, to_partition_spec(storage_spec(array.shape, names[found], mesh)))
        except UserError as error:
            raise UserError(f"{'/'.join(found)}: {error}") from None

    return jax.tree_util.tree_map_with_path(sharding_of, abstract_state)


def is_axes(leaf: Any) -> bool:
    """Returns whether a node is the entry of one parameter: a tuple of axis names, or None."""
    return leaf is None or isinstance(leaf, tuple)


def path_of(path: Any) -> Path:
    """Converts a key path of JAX to a tuple of names."""
    return tuple(jax.tree_util.keystr(path, simple=True, separator="/").split("/"))


def find_parameter(path: Path, names: Mapping[Path, Any]) -> Path | None:
    """Returns the longest parameter path that ``path`` ends with; None if there is none."""
    return next((path[start:] for start in range(len(path)) if path[start:] in names), None)


def describe_placements(placements: Any) -> dict[str, list[Any]]:
    """Returns the mesh axes of each sharded array by its path, JSON-serialisable. Replicated arrays are left out."""
    leaves = jax.tree_util.tree_flatten_with_path(placements)[0]
    return {"/".join(path_of(path)): list(leaf.spec) for path, leaf in leaves if any(leaf.spec)}


def place_shapes(shapes: Any, placement: Any) -> Any:
    """Returns the shapes with shardings.

    Args:
        shapes: a tree of arrays or shapes.
        placement: one sharding for all of them, or a tree of shardings like ``shapes``.
    """
    if isinstance(placement, Sharding):
        placement = jax.tree.map(lambda _: placement, shapes)
    return jax.tree.map(
        lambda array, sharding: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding), shapes, placement
    )
