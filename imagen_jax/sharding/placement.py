"""Which array is cut along which mesh axis."""

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from imagen_jax.errors import UserError

SMALLEST_SHARDED_SIZE = 2**14
"""Arrays with fewer elements are kept whole on each device: gathering them would cost more than they weigh."""


def replicated(mesh: Mesh) -> NamedSharding:
    """A whole copy on each device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_placement(mesh: Mesh, batch_size: int) -> NamedSharding:
    """The batch axis cut over every mesh axis.

    Raises:
        UserError: the batch can't be cut evenly over the devices.
    """
    devices = mesh.devices.size
    if batch_size % devices:
        raise UserError(
            f"a batch of {batch_size} does not divide over {devices} devices; make it a multiple of {devices}"
        )
    return NamedSharding(mesh, PartitionSpec(mesh.axis_names))


def place_on_largest_axis(array: jax.ShapeDtypeStruct, mesh: Mesh) -> NamedSharding:
    """Cuts an array over ``fsdp`` along its largest axis that divides evenly; small or indivisible ones stay whole."""
    parts = mesh.shape["fsdp"]
    divisible = [axis for axis, size in enumerate(array.shape) if size % parts == 0]
    if parts == 1 or not divisible or np.prod(array.shape) < SMALLEST_SHARDED_SIZE:
        return replicated(mesh)
    largest = max(divisible, key=lambda axis: array.shape[axis])
    return NamedSharding(mesh, PartitionSpec(*[None] * largest, "fsdp"))


def place_state(abstract_state: Any, mesh: Mesh) -> Any:
    """A placement for every array of a training state (from ``jax.eval_shape``), in the same tree."""
    return jax.tree.map(lambda array: place_on_largest_axis(array, mesh), abstract_state)
