"""Describes the devices of a TPU pod that is not attached. Such devices can compile, but not compute.

The compiler is part of libtpu. It reads from environment variables on which machine of a pod it runs, so this module
sets them.
"""

import importlib.util
import math
import os
import re
from collections.abc import Sequence
from typing import NamedTuple

import jax
from jax.experimental import topologies

from imagen_jax.errors import UserError
from imagen_jax.errors.packages import missing_package
from imagen_jax.forecast.chips import Chip, chip_of

SURROUNDINGS = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v4-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
"""Environment variables for libtpu outside a pod, which describe an arbitrary machine.

Several processes may load libtpu at once, because none of them holds a chip.
"""

OPTIONS = {"v4": {"chip_config_name": "megacore", "chips_per_host_bounds": (2, 2, 1)}}
"""Further compiler options by generation: the two cores of a v4 chip act as one device."""

EXAMPLE = "--topology=v4:4x4x8"


class Pod(NamedTuple):
    """A TPU pod of one or several slices.

    Attributes:
        chip: type of its chips.
        sides: number of chips along each side of a slice.
        slices: number of slices.
        devices: devices of all slices, one for each chip.
    """

    chip: Chip
    sides: tuple[int, ...]
    slices: int
    devices: Sequence[jax.Device]

    @property
    def name(self) -> str:
        """The topology as on the command line, after the number of slices if there are several."""
        shape = f"{self.chip.name}:{'x'.join(map(str, self.sides))}"
        return shape if self.slices == 1 else f"{self.slices} × {shape}"


def describe_pod(topology: str, slices: int = 1) -> Pod:
    """Returns the pod of a topology such as ``v4:4x4x8`` or ``v5e:16x16``.

    Args:
        topology: generation, by any name that ``chip_of`` knows, and sides of a slice.
        slices: number of slices, at least 1.

    Raises:
        UserError: the generation or the shape is unknown, ``slices`` is below 1, or libtpu is not installed.
    """
    found = re.fullmatch(r"([\w-]+):(\d+(?:x\d+){1,2})", topology)
    if not found:
        raise UserError(f"{topology!r} is not a topology: give a generation and the sides of a slice, as in {EXAMPLE}")
    chip = chip_of(found[1])
    sides = tuple(map(int, found[2].split("x")))
    if slices < 1:
        raise UserError(f"a pod can't have {slices} slices: set --slices to 1 or more")
    require_libtpu()
    for name, value in SURROUNDINGS.items():
        os.environ.setdefault(name, value)
    try:
        description = topologies.get_topology_desc(
            platform="tpu", topology_name=f"{chip.name}:{found[2]}", num_slices=slices, **OPTIONS.get(chip.name, {})
        )
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"the TPU compiler does not support {topology} ({reason}): choose another, as in {EXAMPLE}"
        ) from error
    if len(description.devices) != slices * math.prod(sides):
        raise UserError(
            f"the TPU compiler sees {len(description.devices)} devices in {slices} × {topology}: choose another "
            "topology"
        )
    return Pod(chip, sides, slices, description.devices)


def require_libtpu() -> None:
    """Checks that the TPU compiler is installed.

    Raises:
        UserError: it is not installed; the message gives the command that installs it.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise missing_package("libtpu", "the TPU compiler")
