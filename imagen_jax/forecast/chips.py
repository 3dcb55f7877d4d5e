"""What a chip of each TPU generation can do at most.

Compute and memory are as the pages "TPU v4", "TPU v5e", "TPU v5p" and "TPU v6e" of the Cloud TPU documentation print
them (November 2026). Links and the network of the data center are those of Austin et al. 2025, "How to Scale Your
Model", section "TPU networking": what a link carries one way, a little below the printed 50 or 100 GB/s, and 25 GB/s a
host, which is also what the documentation prints for v5e (6.4 Tbit/s a pod of 256) and v5p (50 Gbit/s a chip). So is
where links close to a ring: a side of 4 chips or a multiple of it on v4 and v5p, a side of 16 on v5e and v6e.
"""

from typing import NamedTuple

from imagen_jax.errors import lookup


class Chip(NamedTuple):
    """Peaks of one chip.

    Attributes:
        name: as Cloud TPU calls it.
        device_kind: as JAX calls it.
        flops_per_second: of bfloat16 matrix products.
        memory_bytes: of its HBM.
        memory_bytes_per_second: to and from its HBM.
        link_bytes_per_second: of one link to a neighbour, in one direction.
        ring: sides of a slice that are a multiple of this close to a ring.
        network_bytes_per_second: its share of the data-center network, in one direction.
    """

    name: str
    device_kind: str
    flops_per_second: float
    memory_bytes: int
    memory_bytes_per_second: float
    link_bytes_per_second: float
    ring: int
    network_bytes_per_second: float


CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v4", "TPU v4", 275e12, 32 * 2**30, 1.2e12, 45e9, 4, 25e9 / 4),
        Chip("v5e", "TPU v5 lite", 197e12, 16 * 2**30, 0.819e12, 45e9, 16, 25e9 / 8),
        Chip("v5p", "TPU v5", 459e12, 95 * 2**30, 2.765e12, 90e9, 4, 25e9 / 4),
        Chip("v6e", "TPU v6 lite", 918e12, 32 * 2**30, 1.638e12, 90e9, 16, 25e9 / 8),
    )
}
"""Each generation by its name."""


def chip_of(name: str) -> Chip:
    """The chip of a generation.

    Raises:
        UserError: an unknown one.
    """
    return lookup(CHIPS, name, "TPU generation")


def find_chip(device_kind: str) -> Chip | None:
    """The chip that JAX calls ``device_kind``; None for what is no TPU of ours, such as a CPU."""
    return next((chip for chip in CHIPS.values() if chip.device_kind == device_kind), None)
