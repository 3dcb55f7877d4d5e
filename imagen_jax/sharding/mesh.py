"""The mesh of devices: ``data`` splits the batch only, ``fsdp`` splits the batch and the parameters."""

import math
from collections.abc import Mapping

import jax
from jax.sharding import AxisType, Mesh

from imagen_jax.errors import UserError, nearest_name

MESH_AXES = ("data", "fsdp")


def make_mesh(axis_sizes: Mapping[str, int]) -> Mesh:
    """Builds the mesh over all devices of all processes.

    Args:
        axis_sizes: size of each axis of ``MESH_AXES``; one of them may be -1, "whatever is left".

    Raises:
        UserError: an unknown axis, or sizes that don't multiply to the number of devices.
    """
    for name in axis_sizes:
        if name not in MESH_AXES:
            raise UserError(f"unknown mesh axis {name!r}{nearest_name(name, MESH_AXES)}")
    sizes = [axis_sizes.get(name, 1) for name in MESH_AXES]
    devices = jax.device_count()
    fixed = math.prod(size for size in sizes if size != -1)
    if sizes.count(-1) == 1 and fixed > 0 and devices % fixed == 0:
        sizes[sizes.index(-1)] = devices // fixed
    if min(sizes) < 1 or math.prod(sizes) != devices:
        wanted = ", ".join(f"{name}={axis_sizes.get(name, 1)}" for name in MESH_AXES)
        raise UserError(
            f"the mesh {wanted} does not fit {devices} device(s); set one axis of config.mesh to -1, or sizes whose "
            f"product is {devices}"
        )
    # Explicit axes, the default, make Linen's convolutions with a sharded kernel raise.
    return jax.make_mesh(tuple(sizes), MESH_AXES, axis_types=(AxisType.Auto,) * len(sizes))
