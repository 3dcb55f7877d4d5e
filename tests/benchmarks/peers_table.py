"""The table of ``tests.benchmarks.peers``: medians over rounds, and the ratio to the peer's of each."""

import datetime
import importlib.metadata
import os
import platform
import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tests.benchmarks.pages import write_page
from tests.benchmarks.peers_work import GROUPS, Work, steady

LIBRARIES = ("jax", "jaxlib", "flax", "torch", "diffusers", "transformers", "imagen-pytorch", "accelerate")

Result = Mapping[str, Any]


class Row(NamedTuple):
    """One measure.

    Attributes:
        name: of it, with its unit.
        task: that it is of.
        cache: which of our runs it is taken from.
        asked: the ratio to the peer's that is asked for, by comparison.
        most: whether that is the largest ratio allowed, and not the smallest.
        form: how a number is written.
    """

    name: str
    task: str
    cache: str
    required: Mapping[str, float]
    is_max: bool
    form: str

    def number(self, result: Result) -> float | None:
        """The measure of one result; None of a run that was too short for it."""
        if self.name.startswith("peak"):
            return result["peak_bytes"] / 2**30
        if self.name.startswith("first"):
            return result["first_seconds"]
        seconds = steady(self.task, result["seconds"])
        return None if seconds is None else result["images"] / seconds

    def numbers(self, results: Sequence[Result], contender: str) -> list[float]:
        """Those of all rounds; a peer has but one kind of run, which is "warm"."""
        peer = contender in [peer for peer, _ in GROUPS.values()]
        cache = "warm" if peer else self.cache
        of_task = [
            one for one in results if (one["contender"], one["task"], one["cache"]) == (contender, self.task, cache)
        ]
        return [number for number in map(self.number, of_task) if number is not None]


NO_MORE = {"same_network": 1.0, "same_operations": 1.0}
ROWS = (
    Row("training, images/s", "train", "warm", {"same_network": 1.0, "same_operations": 1.2}, False, ".3f"),
    Row("sampling, images/s", "sample", "warm", {"same_network": 1.5, "same_operations": 1.5}, False, ".3f"),
    Row("peak memory of training, GiB", "train", "warm", NO_MORE, True, ".2f"),
    Row("peak memory of sampling, GiB", "sample", "warm", NO_MORE, True, ".2f"),
    Row("first training step, compiled before, s", "train", "warm", {}, True, ".1f"),
    Row("first training step, nothing compiled, s", "train", "cold", {}, True, ".1f"),
    Row("first pictures, compiled before, s", "sample", "warm", {}, True, ".1f"),
    Row("first pictures, nothing compiled, s", "sample", "cold", {}, True, ".1f"),
)
TITLES = {
    "same_network": "## The same network: a DeepFloyd IF base, written by diffusers and imported",
    "same_operations": "## As many operations: imagen-pytorch's U-Net, and two of ours",
}


def cell(numbers: Sequence[float], form: str) -> str:
    """The median, and where there are several the least and the most."""
    median = f"{statistics.median(numbers):{form}}"
    return median if len(numbers) == 1 else f"{median} ({min(numbers):{form}} to {max(numbers):{form}})"


def ratio_cell(ratio: float, required: float | None, is_max: bool) -> str:
    """The ratio, bold where it is what is asked for."""
    reached = required is not None and (ratio <= required if is_max else ratio >= required)
    return f"**{ratio:.2f}**" if reached else f"{ratio:.2f}"


def format_group(group: str, results: Sequence[Result], facts: Mapping[str, Any]) -> list[str]:
    """The lines of one comparison; none where nothing was measured."""
    peer, ours = GROUPS[group]
    rows = []
    for row in ROWS:
        numbers = {name: row.numbers(results, name) for name in (peer, *ours)}
        if not all(numbers.values()):
            continue
        base = statistics.median(numbers[peer])
        required = row.required.get(group)
        cells = [row.name, cell(numbers[peer], row.form)]
        for name in ours:
            ratio = statistics.median(numbers[name]) / base
            cells += [cell(numbers[name], row.form), ratio_cell(ratio, required, row.is_max)]
        sign = "≤" if row.is_max else "≥"
        rows.append(f"| {' | '.join(cells)} | {'' if required is None else f'{sign} {required:.1f}'} |")
    if not rows:
        return []
    head = ["", peer, *(name for one in ours for name in (one, "ratio")), "asked"]
    sizes = [
        f"{name}: {facts[name]['parameters'] / 1e6:.1f}M parameters, {facts[name]['operations'] / 1e9:.1f} GFLOP a "
        f"forward pass of one image" + (f", `{facts[name]['network']}`" if "network" in facts[name] else "")
        for name in (peer, *ours)
    ]
    return [
        TITLES[group], "", f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *rows, "",
        *(f"- {line}" for line in sizes), "",
    ]  # fmt: skip


def processor() -> str:
    """The model of this machine's processor."""
    path = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*:\s*(.+)$", path.read_text(), flags=re.MULTILINE) if path.exists() else None
    return found[1].strip() if found else platform.machine()


def versions() -> str:
    """Of the libraries that are installed."""
    found = []
    for name in LIBRARIES:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return ", ".join(found)


def format_table(work: Work, results: Sequence[Result], facts: Mapping[str, Any]) -> str:
    """The whole of it, in Markdown."""
    groups = [line for group in GROUPS for line in format_group(group, results, facts)]
    rounds = len({result["round"] for result in results})
    loads = [result["load"] for result in results]
    lines = [
        "# Next to the PyTorch libraries",
        "",
        f"Measured until {datetime.date.today():%d %B %Y} on {os.cpu_count()} cores of {processor()}, Python "
        f"{platform.python_version()}, {versions()}; float32. Medians over {rounds} rounds in which all take turns, "
        f"least and most in brackets; ratios are ours over the peer's, bold where they are what is asked. When a run "
        f"ended, as many processes wanted a core as {min(loads):.1f} to {max(loads):.1f} (its own among them).",
        "",
        "```sh",
        "python -m tests.benchmarks.peers FOLDER --table=tests/benchmarks/peers.md",
        "```",
        "",
        f"Training: batches of {work.batch_size} at {work.resolution} px, {work.train_steps} steps a run of which the "
        f"first two do not count. Sampling: {work.pictures} pictures at once, {work.sample_steps} steps, each with "
        "guidance. Peak memory is that of the whole process; first steps and pictures count from its start, imports "
        "and all. \"Nothing compiled\" is our first run ever; a peer has nothing to compile, and one number for both.",
        "",
        *groups,
    ]  # fmt: skip
    return "\n".join(lines)


def write_table(work: Work, results: Sequence[Result], facts: Mapping[str, Any], path: Path | None) -> None:
    """Prints the table, and writes it into a file, see ``write_page``.

    Raises:
        SystemExit: there are no results.
    """
    if not results:
        raise SystemExit("there are no results in this folder: give --rounds=1 or more")
    table = format_table(work, results, facts)
    print(table)
    if path is not None:
        write_page(path, table)
