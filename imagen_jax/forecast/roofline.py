"""The least time that a program can take: that of whichever of three runs out first (Williams et al. 2009, "Roofline").

    compute        operations / peak of the matrix units
    memory         bytes accessed / peak of the HBM
    interconnect   Σ bytes that a chip sends / what its links to the others of the group carry

It holds if the three overlap perfectly, and the exchanges of one another not at all.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from imagen_jax.forecast.chips import Chip
from imagen_jax.forecast.collectives import Collective
from imagen_jax.forecast.topologies import Pod


class Roofline(NamedTuple):
    """Seconds that a program takes at least, by what they are spent on."""

    compute: float
    memory: float
    interconnect: float

    @property
    def seconds(self) -> float:
        """The longest of the three."""
        return max(self)

    @property
    def bound(self) -> str:
        """Which one that is."""
        return max(self._fields, key=lambda name: getattr(self, name))


def estimate(
    pod: Pod, devices: Sequence[Any], flops: float, accessed: float, collectives: Sequence[Collective]
) -> Roofline:
    """The roofline of a program.

    Args:
        pod: that it runs on.
        devices: the chips in the mesh's order.
        flops: operations of a chip.
        accessed: bytes that a chip reads and writes in its HBM.
        collectives: the program's exchanges.
    """
    exchanged = sum(seconds_of(one, pod, devices) for one in collectives)
    return Roofline(flops / pod.chip.flops_per_second, accessed / pod.chip.memory_bytes_per_second, exchanged)


def seconds_of(one: Collective, pod: Pod, devices: Sequence[Any]) -> float:
    """Seconds of an exchange; between slices, what the chips of one slice sum first goes out once."""
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
    """Bytes a second that a chip can send to the others of its group, over all links that lead to them.

    A side of the pod that the group takes whole, and that closes to a ring, is gone round both ways. Any other is a
    line, at the ends of which a chip has one neighbour.
    """
    bandwidth = 0.0
    for axis, side in enumerate(sides):
        taken = len({place[axis] for place in coords})
        if taken > 1:
            rings = taken == side and side % chip.ring == 0
            bandwidth += chip.link_bytes_per_second * (2 if rings else 1)
    return bandwidth
