"""How fast we are next to the PyTorch libraries that one would otherwise use: diffusers and imagen-pytorch.

From the repository's root, with the extra ``peers``, in a folder that takes networks, caches and results::

    python -m tests.benchmarks.peers FOLDER [--rounds=3] [--tasks=train,sample] [--table=tests/benchmarks/peers.md]

Each contender is a process of its own, one after the other, as its users would start it; in each round all take turns.
Of ours there are two a round: one that finds no compiled program in its cache and ends after its first step, and one
that finds all. Results go to FOLDER/results.jsonl, those of a later call beside those of an earlier one, and the table
is made of all; ``--rounds=0`` only makes the table.

What compares: ``same_network``, a U-Net as DeepFloyd IF's, written by diffusers and imported into ours;
``same_operations``, imagen-pytorch's U-Net and two of ours that have its number of operations an image.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from imagen_jax.runtime.memory import TUNABLE, would_help
from tests.benchmarks.peers_table import write_table
from tests.benchmarks.peers_work import FULL, GROUPS, TASKS, TINY, read_facts, read_work, write_work

PEERS = [peer for peer, _ in GROUPS.values()]


def environment(contender: str, folder: Path, cache: str, large_pages_for_all: bool) -> dict[str, str]:
    """The environment variables of a contender: ours has what its commands set for themselves."""
    variables = os.environ | {"IMAGEN_JAX_CACHE": str(folder / cache)}
    if contender not in PEERS:
        variables.setdefault("JAX_PLATFORMS", "cpu")
    if (contender not in PEERS or large_pages_for_all) and would_help():
        variables.setdefault("GLIBC_TUNABLES", TUNABLE)
    return variables


def start(contender: str, task: str, folder: Path, variables: dict[str, str]) -> str:
    """Runs a contender to its end, and returns what it printed last.

    Raises:
        SystemExit: it failed; with what it said.
    """
    module = "peers_torch" if contender in PEERS else "peers_ours"
    command = [sys.executable, "-m", f"tests.benchmarks.{module}", str(folder), contender, task, str(time.time())]
    ended = subprocess.run(command, env=variables, capture_output=True, text=True)
    if ended.returncode:
        raise SystemExit(f"{contender} could not {task}:\n{ended.stderr}")
    return ended.stdout.strip().rpartition("\n")[2]


def prepare(folder: Path, groups: list[str], tiny: bool) -> None:
    """Makes the networks that are not there yet."""
    if not (folder / "work.json").exists():
        write_work(folder, TINY if tiny else FULL)
    for group in groups:
        peer, ours = GROUPS[group]
        for contender in (peer, *ours):
            done = folder / f"{contender}.prepared"
            if not done.exists():
                start(contender, "prepare", folder, environment(contender, folder, "cache", False))
                done.touch()
                print(f"{contender}: {read_facts(folder)[contender]}", flush=True)


def run_round(folder: Path, number: int, groups: list[str], tasks: list[str], large_pages_for_all: bool) -> None:
    """All contenders in turn, each task of a comparison after the other."""
    work = read_work(folder)
    short = folder / "first_step"
    for group in groups:
        peer, ours = GROUPS[group]
        for task in tasks:
            for contender in (peer, *ours):
                cache = f"cache_of_round_{number}_{task}_{contender}"
                variables = environment(contender, folder, cache, large_pages_for_all)
                if contender not in PEERS:
                    link_to(short, folder)
                    write_work(short, work.shortened())
                    keep(folder, start(contender, task, short, variables), number, "cold")
                keep(folder, start(contender, task, folder, variables), number, "warm")


def link_to(short: Path, folder: Path) -> None:
    """Makes a folder that shares all but the amount of work with another."""
    short.mkdir(exist_ok=True)
    for path in folder.iterdir():
        if path.name not in ("work.json", short.name) and not (short / path.name).exists():
            (short / path.name).symlink_to(path)


def keep(folder: Path, line: str, number: int, cache: str) -> None:
    """Adds a result to those that are there."""
    result = json.loads(line) | {"round": number, "cache": cache, "load": os.getloadavg()[0]}
    with (folder / "results.jsonl").open("a") as results:
        print(json.dumps(result), file=results)
    print(json.dumps(result), flush=True)


def read_results(folder: Path) -> list[dict]:
    """All that there are."""
    path = folder / "results.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--groups", default=",".join(GROUPS))
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--tiny", action="store_true", help="small enough for a test; its numbers say nothing")
    parser.add_argument("--large_pages_for_all", action="store_true", help="the peers also get what ours set")
    parser.add_argument("--table", type=Path, help="where to write it; else it is only printed")
    options = parser.parse_args()
    folder, groups, tasks = options.folder.absolute(), options.groups.split(","), options.tasks.split(",")
    if options.rounds:
        prepare(folder, groups, options.tiny)
    done = max((result["round"] for result in read_results(folder)), default=0)
    for number in range(done + 1, done + 1 + options.rounds):
        run_round(folder, number, groups, tasks, options.large_pages_for_all)
    write_table(read_work(folder), read_results(folder), read_facts(folder), options.table)


if __name__ == "__main__":
    main()
