"""Where a parameter goes when it was read: what ``named_tensors.import_weights`` takes as ``place``."""

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from imagen_jax.weights.named_tensors import ParameterPlacement, require_finite


def place_whole(path: str, array: np.ndarray) -> Any:
    """Puts a parameter on the default device, and returns when it is there."""
    # A copy, for on a CPU the parameter may remain a view of what it is made from: here of the file, whose every change
    # it would follow.
    return jax.block_until_ready(jax.device_put(require_finite(np.array(array))))


def place_sharded(mesh: Mesh) -> ParameterPlacement:
    """Makes a ``ParameterPlacement`` that shards matrices over all devices of a mesh and replicates everything else.

    A matrix is cut along its largest axis that the number of devices divides. Each device gets its own part, and of a
    tensor that is stored in the type it is wanted in, a host reads the parts of its own devices only.
    """
    # With axes that are left to XLA: a network that was written for one device need not say how it is cut.
    mesh = Mesh(mesh.devices, mesh.axis_names)

    def place(path: str, array: np.ndarray) -> Any:
        sharding = NamedSharding(mesh, cut_largest_axis(array.shape, mesh))
        return jax.block_until_ready(
            jax.make_array_from_callback(array.shape, sharding, lambda index: require_finite(np.array(array[index])))
        )

    return place


def place_on_local_devices() -> ParameterPlacement:
    """The ``ParameterPlacement`` for this process: its one device, or cut over all that it has."""
    devices = jax.local_devices()
    return place_whole if len(devices) == 1 else place_sharded(Mesh(np.array(devices), ("local",)))


def cut_largest_axis(shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    """The largest axis over all axes of the mesh; nothing where no axis divides, or there is only one."""
    divisible = [axis for axis, size in enumerate(shape) if size % mesh.size == 0]
    if len(shape) < 2 or not divisible:
        return PartitionSpec()
    largest = max(divisible, key=lambda axis: shape[axis])
    return PartitionSpec(*[None] * largest, mesh.axis_names)
