"""The mesh of devices: which of them share the batch, the parameters, and the work on one example.

slice    over the network of the data center: slices of a pod, each of which holds whole states
data     over the interconnect: examples only; each part holds a whole state
fsdp     over the interconnect: examples, and the parts of each parameter
tensor   over the interconnect: the channels inside blocks, and the heads of attentions
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
        axis_sizes: size of each axis of ``MESH_AXES``, 1 if not given; one of them may be -1, "whatever is left".
        devices: all of them, of all processes, if not given.

    Raises:
        UserError: an unknown axis, sizes that don't multiply to the number of devices, or another number of slices than
            the devices sit in; says what would fit.
    """
    devices = jax.devices() if devices is None else list(devices)
    sizes = fit_sizes(axis_sizes, len(devices))
    slices = {getattr(device, "slice_index", 0) for device in devices}
    if len(slices) > 1 and len(slices) != sizes[SLICE]:
        raise UserError(
            f"the devices sit in {len(slices)} slices and config.mesh.slice is {sizes[SLICE]}: set it to {len(slices)}"
        )
    # Explicit axes, the default, make Linen's convolutions with a sharded kernel raise.
    return Mesh(arrange(devices, sizes, len(slices)), MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES))


def fit_sizes(axis_sizes: Mapping[str, int], devices: int) -> dict[str, int]:
    """The size of each axis, -1 resolved.

    Raises:
        UserError: as ``make_mesh``'s.
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
            f"the mesh {wanted} does not fit {devices} device(s): what fits is {describe_fits(axis_sizes, devices)}"
        )
    return sizes


def describe_fits(axis_sizes: Mapping[str, int], devices: int) -> str:
    """Words for the sizes that one axis may take, if the others stay and ``data`` takes what is left."""
    divisors = [size for size in range(1, devices + 1) if devices % size == 0]
    told = []
    for name in (FSDP, TENSOR, SLICE):
        others = math.prod(max(axis_sizes.get(other, 1), 1) for other in (FSDP, TENSOR, SLICE) if other != name)
        fits = [size for size in divisors if devices % (size * others) == 0]
        if fits:
            told.append(f"config.mesh.{name} of {', '.join(map(str, fits))}")
    told = told or ["1 for each of config.mesh.fsdp, tensor and slice"]
    return f"{' or '.join(told)}, with config.mesh.data=-1"


def arrange(devices: Sequence[jax.Device], sizes: Mapping[str, int], slices: int) -> np.ndarray:
    """The devices in the mesh's shape, so that neighbours in the mesh are neighbours in the machine.

    Where devices don't say in which slice they sit, such as CPUs that imitate a pod, they are taken in their order.
    """
    within = [1, *(sizes[name] for name in MESH_AXES[1:])]
    if slices > 1:
        return mesh_utils.create_hybrid_device_mesh(within, [slices, 1, 1, 1], devices=devices)
    if devices[0].platform == "tpu" and sizes[SLICE] == 1:
        # An axis may take several sides of the machine, or, where no side has its size, parts of them.
        return mesh_utils.create_device_mesh(within, devices=devices, allow_split_physical_axes=True)
    return np.array(devices).reshape([sizes[name] for name in MESH_AXES])
