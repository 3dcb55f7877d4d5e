"""Places parameters on devices: functions for the argument ``place`` of ``named_tensors.import_weights``."""

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from imagen_jax.weights.named_tensors import ParameterPlacement, require_finite


def place_whole(path: str, array: np.ndarray) -> Any:
    """Puts a parameter on the default device, and waits until it is there."""
    # A copy: on a CPU, ``device_put`` may return a view of its input. The input is the mapped file here, and the
    # parameter would change when the file changes.
    return jax.block_until_ready(jax.device_put(require_finite(np.array(array))))


def place_sharded(mesh: Mesh) -> ParameterPlacement:
    """Returns a ``ParameterPlacement`` that shards matrices over all devices of a mesh and replicates everything else.

    A matrix is sharded along its largest axis that is divisible by the number of devices. A host reads only the parts
    for its own devices, if the tensor is stored in the requested dtype.
    """
    # The axes are of type Auto: XLA propagates the shardings, so networks for one device need no annotations.
    mesh = Mesh(mesh.devices, mesh.axis_names)

    def place(path: str, array: np.ndarray) -> Any:
        sharding = NamedSharding(mesh, shard_largest_axis(array.shape, mesh))
        return jax.block_until_ready(
            jax.make_array_from_callback(array.shape, sharding, lambda index: require_finite(np.array(array[index])))
        )

    return place


def place_on_local_devices() -> ParameterPlacement:
    """Returns the ``ParameterPlacement`` for this process: its one device, or sharded over all its devices."""
    devices = jax.local_devices()
    return place_whole if len(devices) == 1 else place_sharded(Mesh(np.array(devices), ("local",)))


def shard_largest_axis(shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    """Returns a spec that shards the largest divisible axis over the mesh; empty if none is, or for a vector."""
    divisible = [axis for axis, size in enumerate(shape) if size % mesh.size == 0]
    if len(shape) < 2 or not divisible:
        return PartitionSpec()
    largest = max(divisible, key=lambda axis: shape[axis])
    return PartitionSpec(*[None] * largest, mesh.axis_names)
