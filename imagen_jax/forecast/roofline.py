"""Estimates the min time of a program as the max of three times (Williams et al. 2009, "Roofline").

    compute        operations / peak of the matrix units
    memory         bytes accessed / peak bandwidth of the HBM
    interconnect   Σ bytes that a chip sends / bandwidth of its links to the rest of the group

The estimate assumes that the three overlap perfectly, and that collectives do not overlap each other.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from imagen_jax.forecast.chips import Chip
from imagen_jax.forecast.collectives import Collective
from imagen_jax.forecast.topologies import Pod


class Roofline(NamedTuple):
    """The min time of a program in seconds, for each of the three resources."""

    compute: float
    memory: float
    interconnect: float

    @property
    def seconds(self) -> float:
        """The max of the three times."""
        return max(self)

    @property
    def bound(self) -> str:
        """The name of the resource with the max time."""
        return max(self._fields, key=lambda name: getattr(self, name))


def estimate(
    pod: Pod, devices: Sequence[Any], flops: float, accessed: float, collectives: Sequence[Collective]
) -> Roofline:
    """Returns the roofline of a program.

    Args:
        pod: pod that runs the program.
        devices: chips in the mesh's order.
        flops: operations per chip.
        accessed: bytes that a chip reads and writes in its HBM.
        collectives: collectives of the program.
    """
    exchanged = sum(seconds_of(one, pod, devices) for one in collectives)
    return Roofline(flops / pod.chip.flops_per_second, accessed / pod.chip.memory_bytes_per_second, exchanged)


def seconds_of(one: Collective, pod: Pod, devices: Sequence[Any]) -> float:
    """Returns the seconds of a collective.

    In a group over several slices, the chips of each slice first combine their data over the links. The combined data
    then cross the data-center network once.
    """
    chips = [devices[number] for number in one.group]
    slices = {getattr(chip, "slice_index", 0) for chip in chips}
    within = len(chips) // len(slices)
    seconds = 0.0
    coords = {tuple(chip.coords) for chip in chips if getattr(chip, "slice_index", 0) == min(slices)}
    if len(coords) > 1:
        seconds += one._replace(group=one.group[:within]).moved / links_bandwidth(coords, pod.sides, pod.chip)
    if len(slices) > 1:
        outside = one._replace(group=one.group[: len(slices)], size=one.size // within)
        seconds += outside.moved / pod.chip.network_bytes_per_second
    return seconds


def links_bandwidth(coords: Iterable[Sequence[int]], sides: Sequence[int], chip: Chip) -> float:
    """Returns the bytes per second that a chip can send to its group, over all links that lead there.

    If the group fills a side of the slice, and the side closes to a ring, data flow in both directions. Otherwise the
    group forms a line along that side, and the chips at its ends have only one neighbour.
    """
    bandwidth = 0.0
    for axis, side in enumerate(sides):
        taken = len({coord[axis] for coord in coords})
        if taken > 1:
            rings = taken == side and side % chip.ring == 0
            bandwidth += chip.link_bytes_per_second * (2 if rings else 1)
    return bandwidth
