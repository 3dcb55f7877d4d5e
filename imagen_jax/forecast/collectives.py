"""Finds the collectives of a compiled program and the bytes that they move.

    instructions (with the number of runs in loops) -> collectives: kind, bytes, participating chips

A chip in a group of n sends, and also receives, the following number of bytes (Thakur, Rabenseifner and Gropp 2005,
section 3; optimal for the reductions):

    all-gather, reduce-scatter, all-to-all    (n - 1)/n · bytes of the whole array                        (1)
    all-reduce                                2 · (n - 1)/n · bytes of the array                          (2)
    collective-permute                        bytes of the array                                          (3)
"""

import math
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from imagen_jax.forecast.programs import Instruction

KINDS = ("all-gather", "reduce-scatter", "all-reduce", "all-to-all", "collective-permute")

BITS = {"pred": 8, "bf16": 16, **{f"{letter}{bits}": bits for letter in "fsu" for bits in (4, 8, 16, 32, 64)}}

Group = tuple[int, ...]
"""Numbers of chips, counted in the mesh's order."""


class Collective(NamedTuple):
    """One collective.

    Attributes:
        kind: one of ``KINDS``.
        size: size of the array in bytes; of the whole array if chips gather or scatter parts.
        group: chips of one group; the other groups are equivalent.
        times: number of executions in a run of the program.
        origin: ``op_name`` of the source operation; empty if unknown.
    """

    kind: str
    size: int
    group: Group
    times: int
    origin: str

    @property
    def moved(self) -> float:
        """The bytes that a chip sends in a run of the program, by equations (1) to (3)."""
        members = len(self.group)
        share = {"all-reduce": 2 * (members - 1) / members, "collective-permute": 1.0}
        return self.times * self.size * share.get(self.kind, (members - 1) / members)


PIECES = re.compile(r"channel_id=(\d+),.*async_collective_fusion_config")
"""Matches the parts of an asynchronous collective. The program lists it at its start, in the fusions that continue it,
and at its end, each time with the same channel number."""

SHAPE = re.compile(r"(\w+)\[([\d,]*)\]")


def find_collectives(instructions: Iterable[Instruction], runs: Mapping[str, int]) -> list[Collective]:
    """Returns all collectives of a compiled program.

    Args:
        instructions: instructions of the program.
        runs: number of runs of each computation.

    Raises:
        ValueError: a collective writes its groups in an unknown form.
    """
    found, seen = [], set()
    for one in instructions:
        kind = kind_of(one)
        if kind is None or not runs[one.computation]:
            continue
        pieces = PIECES.search(one.line)
        if pieces:
            if pieces[1] in seen:
                continue
            seen.add(pieces[1])
        found.append(read_collective(one, kind, runs[one.computation]))
    return found


def kind_of(one: Instruction) -> str | None:
    """Returns the kind of a collective; None for other instructions, such as the end of an asynchronous collective."""
    operation = one.operation.removesuffix("-start")
    if operation == "all-reduce" and one.computation.startswith("all-reduce-scatter"):
        # TPU programs express a reduce-scatter as a fusion of an all-reduce and each chip's slice of the result.
        return "reduce-scatter"
    return operation if operation in KINDS else None


def read_collective(one: Instruction, kind: str, times: int) -> Collective:
    """Returns the collective of an instruction.

    Args:
        one: the instruction.
        kind: kind of the collective.
        times: number of executions in a run of the program.
    """
    sizes = [size_of(*shape) for shape in SHAPE.findall(one.result)]
    group = read_group(one.line)
    if one.operation == "collective-permute-start":
        size = sizes[0]
    elif one.operation == "all-gather-start":
        size = sum(sizes[len(sizes) // 2 :])
    else:
        size = sum(sizes)
    if one.operation.startswith("reduce-scatter"):
        size *= len(group)
    return Collective(kind, size, group, times, one.origin)


def size_of(kind: str, dimensions: str) -> int:
    """Returns the bytes of an array of a type and dimensions, such as ``bf16`` and ``8,128``; 0 for other types."""
    return math.prod(int(size) for size in dimensions.split(",") if size) * BITS.get(kind, 0) // 8


def read_group(line: str) -> Group:
    """Returns the first group of a collective, in any of the four known notations.

    Raises:
        ValueError: the notation is unknown.
    """
    if found := re.search(r"(?:replica_groups|source_target_pairs)=\{\{([\d,]*)\}", line):
        return tuple(map(int, found[1].split(",")))
    if found := re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", line):
        return tuple(arrange_numbers(found[2], found[3]).reshape(numbers_in(found[1]))[0].tolist())
    if found := re.search(
        r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(\[([\d,]+)\]T?(?:\(([\d,]+)\))?\))? ?\{([^}]*)\}", line
    ):
        axes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", found[1])}
        flat = arrange_numbers(found[2] or str(math.prod(axes.values())), found[3])
        over = re.findall(r"'([^']+)'", found[4])
        numbers = flat.reshape(list(axes.values()))
        picked = numbers[tuple(slice(None) if name in over else 0 for name in axes)]
        return tuple(picked.reshape(-1).tolist())
    raise ValueError(f"the groups of this collective have an unknown notation: {line.strip()[:400]}")


def numbers_in(text: str) -> list[int]:
    """Returns the numbers of a list such as ``32,8``."""
    return [int(number) for number in text.split(",")]


def arrange_numbers(shape: str, order: str | None) -> np.ndarray:
    """Returns the numbers from 0 up in a shape, such as ``4,8``; ``order`` transposes its axes."""
    sizes = numbers_in(shape)
    numbers = np.arange(math.prod(sizes)).reshape(sizes)
    return numbers.transpose(numbers_in(order)) if order else numbers
