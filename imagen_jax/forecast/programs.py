"""Reads loops and costs from the text of a compiled program.

    text -> instructions -> loops (body, trip count) -> runs of each computation -> costs of the whole program

XLA counts the body of a loop once, whatever its trip count. A TPU program does not state trip counts either, but they
can be derived: JAX's loops count up to a limit, and the start and the limit are constants of the program.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import jax

from imagen_jax.errors import UserError

ENTRY = "ENTRY"
"""Name used here for a program's entry computation."""


class Instruction(NamedTuple):
    """An instruction of a program, which is one line of its text.

    Attributes:
        computation: name of the computation that contains the instruction.
        name: name by which other instructions refer to it.
        result: type of its result, as text.
        operation: its opcode, such as ``fusion``.
        line: the whole line.
    """

    computation: str
    name: str
    result: str
    operation: str
    line: str

    @property
    def origin(self) -> str:
        """The ``op_name`` of the source operation; empty if the line has none."""
        found = re.search(r'op_name="([^"]*)"', self.line)
        return found[1] if found else ""

    @property
    def operands(self) -> list[str]:
        """The names of the operands; for a constant, its value."""
        inside = self.line.split(f" {self.operation}(", 1)[1].split(")", 1)[0]
        return [operand.split("*/")[-1].strip(" %") for operand in inside.split(",")]


class Loop(NamedTuple):
    """A loop of a program.

    Attributes:
        computation: name of the computation that contains the loop.
        body: name of the computation that the loop runs.
        trips: trip count; None if it can't be derived from constants.
    """

    computation: str
    body: str
    trips: int | None


class Costs(NamedTuple):
    """The operations of a chip in one run of a program, and the bytes that it reads and writes in memory."""

    flops: float
    accessed: float


HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
BODY = re.compile(r"^\s+(?:ROOT )?%([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\(")
CALLED = re.compile(r"(?:calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.\-]+)")
BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
LOOP = re.compile(r"condition=%?([\w.\-]+), body=%?([\w.\-]+)")
TRIPS = re.compile(r'known_trip_count":\{"n":"(\d+)"')
INDEX = re.compile(r"index=(\d+)")

Instructions = Sequence[Instruction]


def read_instructions(text: str) -> Iterator[Instruction]:
    """Yields the instructions of a program's text, each with its computation."""
    computation = ""
    for line in text.splitlines():
        if header := HEADER.match(line):
            computation = ENTRY if header[1] else header[2]
        elif body := BODY.match(line):
            yield Instruction(computation, body[1], body[2], body[3], line)


def find_loops(instructions: Instructions) -> list[Loop]:
    """Returns the loops of a program."""
    named = {(one.computation, one.name): one for one in instructions}
    loops = []
    for one in instructions:
        if one.operation == "while" and (found := LOOP.search(one.line)):
            known = TRIPS.search(one.line)
            trips = int(known[1]) if known else read_trips(one, found[1], found[2], instructions, named)
            loops.append(Loop(one.computation, found[2], trips))
    return loops


def read_trips(
    loop: Instruction,
    condition: str,
    body: str,
    instructions: Instructions,
    named: Mapping[tuple[str, str], Instruction],
) -> int | None:
    """Returns the trip count of a loop that counts up by one from a constant to below another; None for other loops.

    Args:
        loop: ``while`` instruction of the loop.
        condition: name of the computation that decides whether the loop continues.
        body: name of the computation that the loop runs.
        instructions: instructions of the program.
        named: instructions by computation and name.
    """

    def constant(computation: str, name: str) -> int | None:
        one = named.get((computation, name))
        while one is not None and one.operation == "copy":
            one = named.get((computation, one.operands[0]))
        return int(one.operands[0]) if one is not None and one.operation == "constant" else None

    def operand(computation: str, one: Instruction, index: int) -> Instruction | None:
        return named.get((computation, one.operands[index]))

    def root(computation: str) -> Instruction | None:
        return next((one for one in instructions if one.computation == computation and "ROOT %" in one.line), None)

    comparison, made, begun = root(condition), root(body), operand(loop.computation, loop, 0)
    if comparison is None or made is None or begun is None or "direction=LT" not in comparison.line:
        return None
    counter = operand(condition, comparison, 0)
    index = INDEX.search(counter.line) if counter else None
    if index is None or made.operation != "tuple" or begun.operation != "tuple":
        return None
    number = int(index[1])
    counted = operand(body, made, number)
    if counted is None or counted.operation != "add" or constant(body, counted.operands[1]) != 1:
        return None
    first, last = constant(loop.computation, begun.operands[number]), constant(condition, comparison.operands[1])
    return None if first is None or last is None else last - first


def count_runs(instructions: Instructions, loops: Sequence[Loop]) -> Counter[str]:
    """Returns the number of runs of each computation in one run of the program; unknown trip counts count as 1."""
    trips = {loop.body: loop.trips or 1 for loop in loops}
    calls: dict[str, list[str]] = {}
    for one in instructions:
        called = CALLED.findall(one.line)
        if found := BRANCHES.search(one.line):
            called += [name.strip(" %") for name in found[1].split(",")]
        calls.setdefault(one.computation, []).extend(called)
    runs: Counter[str] = Counter()

    def run(computation: str, times: int) -> None:
        runs[computation] += times
        for name in calls.get(computation, ()):
            run(name, times * trips.get(name, 1))

    run(ENTRY, 1)
    return runs


def count_costs(once: Costs, text: str, loops: Sequence[Loop], runs: Mapping[str, int]) -> Costs:
    """Returns the costs of a program with all iterations of its loops.

    Args:
        once: XLA's costs of the program, with each loop counted once.
        text: text of the program.
        loops: loops of the program.
        runs: number of runs of each computation.
    """
    flops, accessed = once
    for loop in loops:
        more_runs = runs[loop.computation] * ((loop.trips or 1) - 1)
        if more_runs:
            body = analyse_body(text, loop.body)
            flops += more_runs * body.flops
            accessed += more_runs * body.accessed
    return Costs(flops, accessed)


def analyse_body(text: str, computation: str) -> Costs:
    """Returns XLA's costs of one run of a computation, from a program that has it as its entry.

    Raises:
        UserError: this version of JAX has no such analysis.
    """
    try:
        # ``jax.stages.Compiled.cost_analysis`` is public, and covers whole programs that JAX has compiled itself.
        from jax._src.lib import _jax, hlo

        analyse, parse = _jax.hlo_module_cost_analysis, hlo.hlo_module_from_text
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"JAX {jax.__version__} can't count the operations of a loop ({error}): install a version that setup.py "
            "allows"
        ) from error
    body = re.sub(r"^HloModule .*$", "HloModule body", text, count=1, flags=re.MULTILINE)
    body = re.sub(r"^ENTRY ", "", body, count=1, flags=re.MULTILINE)
    body = re.sub(rf"^%{re.escape(computation)} \(", rf"ENTRY %{computation} (", body, count=1, flags=re.MULTILINE)
    client = jax.local_devices(backend="cpu")[0].client
    costs = analyse(client, parse(body))
    return Costs(costs["flops"], costs["bytes accessed"])
