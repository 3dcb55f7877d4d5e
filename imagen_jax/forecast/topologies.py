"""The chips of a TPU pod that is not here, for the compiler alone: they compile, and compute nothing.

The compiler comes with libtpu, which asks its surroundings on which machine of a pod it runs; here it is told.
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
from imagen_jax.forecast.chips import Chip, chip_of

SURROUNDINGS = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v4-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
"""What libtpu reads, where no pod tells it; any machine will do. Several may compile at once, for none holds a chip."""

OPTIONS = {"v4": {"chip_config_name": "megacore", "chips_per_host_bounds": (2, 2, 1)}}
"""What the compiler wants to know of a generation besides its name: a v4 chip's two cores act as one device."""

EXAMPLE = "--topology=v4:4x4x8"


class Pod(NamedTuple):
    """Chips of a pod.

    Attributes:
        chip: of which it has many.
        sides: how many chips its slices measure each way.
        slices: how many there are.
        devices: one a chip, of all slices.
    """

    chip: Chip
    sides: tuple[int, ...]
    slices: int
    devices: Sequence[jax.Device]

    @property
    def name(self) -> str:
        """As on the command line, with the slices before it where there are several."""
        shape = f"{self.chip.name}:{'x'.join(map(str, self.sides))}"
        return shape if self.slices == 1 else f"{self.slices} × {shape}"


def describe_pod(topology: str, slices: int = 1) -> Pod:
    """The pod of a name such as ``v4:4x4x8`` or ``v5e:16x16``.

    Raises:
        UserError: no such generation or shape, or libtpu is not installed.
    """
    found = re.fullmatch(r"(\w+):(\d+(?:x\d+){1,2})", topology)
    if not found:
        raise UserError(f"{topology!r} is no topology: give a generation and the sides of a slice, as in {EXAMPLE}")
    chip = chip_of(found[1])
    sides = tuple(map(int, found[2].split("x")))
    if slices < 1:
        raise UserError(f"there are no pods of {slices} slices: give --slices of at least 1")
    require_libtpu()
    for name, value in SURROUNDINGS.items():
        os.environ.setdefault(name, value)
    try:
        description = topologies.get_topology_desc(
            platform="tpu", topology_name=topology, num_slices=slices, **OPTIONS.get(chip.name, {})
        )
    except (RuntimeError, ValueError) as error:
        told = str(error).splitlines()[0]
        raise UserError(f"the TPU compiler knows no {topology} ({told}): give another, as in {EXAMPLE}") from error
    if len(description.devices) != slices * math.prod(sides):
        raise UserError(
            f"the TPU compiler sees {len(description.devices)} devices in {slices} × {topology}: give another topology"
        )
    return Pod(chip, sides, slices, description.devices)


def require_libtpu() -> None:
    """Checks that the TPU compiler is installed.

    Raises:
        UserError: it is not; gives the line that installs it.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise UserError("the TPU compiler is not installed: pip install 'jax[tpu]', or this checkout as '.[tpu]'")
