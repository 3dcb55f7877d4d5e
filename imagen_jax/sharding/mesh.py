"""The mesh of devices. Its axes shard the batch, the parameters and the work on one example.

slice    over the data-centre network: examples; each slice holds a whole training state
data     over the interconnect: examples; each shard holds a whole training state
fsdp     over the interconnect: examples, and each parameter
tensor   over the interconnect: the channels inside blocks, and the attention heads
"""

import math
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from imagen_jax.errors import UserError, nearest_name
from imagen_jax.sharding.axes import DATA, FSDP, SLICE, TENSOR

MESH_AXES = (SLICE, DATA, FSDP, TENSOR)


def make_mesh(axis_sizes: Mapping[str, int], devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Builds the mesh.

    Args:
        axis_sizes: size of each axis of ``MESH_AXES``, 1 by default. One size may be -1: all remaining devices.
        devices: the devices of the mesh; by default all devices of all processes.

    Raises:
        UserError: an axis is unknown, the sizes do not multiply to the number of devices, or the devices belong to
            another number of slices. The message says which values fit.
    """
    devices = jax.devices() if devices is None else list(devices)
    sizes = fit_sizes(axis_sizes, len(devices))
    slices = {getattr(device, "slice_index", 0) for device in devices}
    if len(slices) > 1 and len(slices) != sizes[SLICE]:
        raise UserError(
            f"the devices are in {len(slices)} slices and config.mesh.slice is {sizes[SLICE]}: set it to {len(slices)}"
        )
    # With explicit axes, the default, Linen's convolutions raise an error if their kernel is sharded.
    return Mesh(arrange(devices, sizes, len(slices)), MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES))


def fit_sizes(axis_sizes: Mapping[str, int], devices: int) -> dict[str, int]:
    """Returns the size of each axis, with -1 replaced by the number of remaining devices.

    Raises:
        UserError: an axis is unknown, or the sizes do not multiply to ``devices``. The message says which sizes fit.
    """
    for name in axis_sizes:
        if name not in MESH_AXES:
            raise UserError(f"unknown mesh axis {name!r}{nearest_name(name, MESH_AXES)}")
    sizes = {name: axis_sizes.get(name, 1) for name in MESH_AXES}
    left = [name for name, size in sizes.items() if size == -1]
    fixed = math.prod(size for size in sizes.values() if size != -1)
    if len(left) == 1 and fixed > 0 and devices % fixed == 0:
        sizes[left[0]] = devices // fixed
    if min(sizes.values()) < 1 or math.prod(sizes.values()) != devices:
        wanted = ", ".join(f"{name}={axis_sizes.get(name, 1)}" for name in MESH_AXES)
        raise UserError(
            f"the mesh {wanted} does not fit {devices} device(s): choose {describe_fits(axis_sizes, devices)}"
        )
    return sizes


def describe_fits(axis_sizes: Mapping[str, int], devices: int) -> str:
    """Describes the sizes that fit each axis if the other axes keep theirs and ``data`` takes the remaining devices."""
    divisors = [size for size in range(1, devices + 1) if devices % size == 0]
    choices = []
    for name in (FSDP, TENSOR, SLICE):
        others = math.prod(max(axis_sizes.get(other, 1), 1) for other in (FSDP, TENSOR, SLICE) if other != name)
        fits = [size for size in divisors if devices % (size * others) == 0]
        if fits:
            choices.append(f"config.mesh.{name} of {', '.join(map(str, fits))}")
    choices = choices or ["1 for each of config.mesh.fsdp, tensor and slice"]
    return f"{' or '.join(choices)}, with config.mesh.data=-1"


def arrange(devices: Sequence[jax.Device], sizes: Mapping[str, int], slices: int) -> np.ndarray:
    """Returns the devices in the shape of the mesh.

    The mesh follows the hardware's topology across several slices of devices, and on TPUs with a mesh of one slice.
    Other devices keep their order, such as CPUs that imitate a pod.
    """
    within = [1, *(sizes[name] for name in MESH_AXES[1:])]
    if slices > 1:
        return mesh_utils.create_hybrid_device_mesh(within, [slices, 1, 1, 1], devices=devices)
    if devices[0].platform == "tpu" and sizes[SLICE] == 1:
        # A mesh axis may span several physical axes, or parts of them if no physical axis has its size.
        return mesh_utils.create_device_mesh(within, devices=devices, allow_split_physical_axes=True)
    return np.array(devices).reshape([sizes[name] for name in MESH_AXES])
