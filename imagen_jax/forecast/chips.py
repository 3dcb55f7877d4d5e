"""Lists the peak performance of a chip of each TPU generation.

Compute and memory figures come from the pages "TPU v4", "TPU v5e", "TPU v5p" and "TPU v6e" of the Cloud TPU
documentation (November 2026).

Figures of links and of the data-center network come from Austin et al. 2025, "How to Scale Your Model", section "TPU
networking". A link's bandwidth in one direction is a little below the documented 50 or 100 GB/s. The network has
25 GB/s for each host. This agrees with the documentation of v5e (6.4 Tbit/s for a pod of 256) and v5p (50 Gbit/s for a
chip).

The same section says when links close to a ring: if a side is a multiple of 4 chips on v4 and v5p, or has 16 chips on
v5e and v6e.
"""

from typing import NamedTuple

from imagen_jax.errors import lookup


class Chip(NamedTuple):
    """Peaks of one chip.

    Attributes:
        name: generation, as in the Cloud TPU documentation.
        device_kind: JAX's ``device_kind``.
        flops_per_second: peak operations per second of bfloat16 matrix products.
        memory_bytes: size of the HBM in bytes.
        memory_bytes_per_second: bandwidth of the HBM.
        link_bytes_per_second: bandwidth of one link to a neighbour, in one direction.
        ring: number of chips; a side of a slice closes to a ring if its length is a multiple of it.
        network_bytes_per_second: the chip's share of the data-center network's bandwidth, in one direction.
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
"""Chips by the names of their generations."""


OTHER_NAMES = {
    "v5litepod": "v5e",
    "tpu-v4-podslice": "v4",
    "tpu-v5-lite-podslice": "v5e",
    "tpu-v5p-slice": "v5p",
    "tpu-v6e-slice": "v6e",
}
"""Generations by other names of Google's: those of accelerator types of Cloud TPU, and of node labels of GKE."""


def chip_of(name: str) -> Chip:
    """Returns the chip of a generation, which may have any of its names.

    Raises:
        UserError: the generation is unknown.
    """
    return lookup(CHIPS, OTHER_NAMES.get(name, name), "TPU generation")


def find_chip(device_kind: str) -> Chip | None:
    """Returns the chip with a ``device_kind`` of JAX; None for devices not in ``CHIPS``, such as a CPU."""
    return next((chip for chip in CHIPS.values() if chip.device_kind == device_kind), None)
