"""Feeds readers with random inputs. Each must soon give a result or one of our own errors.

From the repository's root::

    python -m tests.torture.fuzz --parser=torch_file --inputs=100000 --seed=0
    python -m tests.torture.fuzz --parser=torch_file --seed=0 --first=4711 --inputs=1     # that input again

An input follows from parser, seed and number. A crash is any other error, more processor time than the reader's
``seconds``, more memory than ``MAX_MEMORY``, or the end of the process, which is watched from another one; its input
is kept in ``--out``. Results are in ``fuzz.md``.
"""

import argparse
import json
import mmap
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path
from typing import NamedTuple

from tests.torture.parsers import PARSERS
from tests.torture.readers import OUR_ERRORS, Parser

MAX_MEMORY = 2**30
"""Bytes more than before the input."""

HOPELESS = 20
"""Seconds of processor time after which the process is ended."""

MAX_MESSAGE_BYTES = 2000


class Crash(NamedTuple):
    """An input that a reader can't deal with."""

    number: int
    what: str
    content: bytes


def input_of(parser: Parser, name: str, seed: int, number: int) -> bytes:
    """The input of a number."""
    return parser.make(random.Random(f"{name} {seed} {number}"))


def feed(parser: Parser, content: bytes, number: int = 0) -> Crash | None:
    """Reads one input; returns what is wrong with that, or None."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.process_time()
    problem = ""
    try:
        with warnings.catch_warnings(action="ignore"):
            parser.read(content)
    except OUR_ERRORS as error:
        try:
            if len(str(error).encode()) > MAX_MESSAGE_BYTES:
                problem = f"a sentence of {len(str(error))} characters: {str(error)[:300]}"
        except UnicodeEncodeError:
            problem = f"a sentence that can't be printed: {error!a}"
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:
        problem = traceback.format_exc()
    seconds = time.process_time() - started
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    if not problem and seconds > parser.seconds:
        problem = f"it takes {seconds:.1f} seconds"
    if not problem and grown > MAX_MEMORY:
        problem = f"it takes {grown / 2**20:.0f} MiB"
    return Crash(number, problem, content) if problem else None


def keep(crash: Crash, out: Path, name: str, seed: int) -> None:
    """Prints a crash and keeps its input."""
    out.mkdir(parents=True, exist_ok=True)
    file = out / f"{name}-{seed}-{crash.number}.bin"
    file.write_bytes(crash.content)
    print(f"CRASH {name} --seed={seed} --first={crash.number} {file}\n{crash.what}", flush=True)


def work(name: str, seed: int, numbers: range, out: Path, progress: Path) -> None:
    """Feeds a reader; writes before each input which it is, and at the end how many crashes there were."""
    # To look into a crash, look at the end of this process.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    crashes = 0
    with tempfile.TemporaryDirectory() as folder, progress.open("r+b") as file, mmap.mmap(file.fileno(), 16) as shared:
        parser = PARSERS[name](Path(folder))
        for number in numbers:
            shared[:8] = number.to_bytes(8, "little")
            # Its default is the end of the process, which native code too obeys.
            signal.setitimer(signal.ITIMER_PROF, HOPELESS)
            crash = feed(parser, input_of(parser, name, seed, number), number)
            if crash is not None:
                crashes += 1
                shared[8:] = crashes.to_bytes(8, "little")
                keep(crash, out, name, seed)
        signal.setitimer(signal.ITIMER_PROF, 0)
        parser.close()
        shared[:8] = numbers.stop.to_bytes(8, "little")


def watch(name: str, seed: int, numbers: range, out: Path) -> int:
    """Starts the work, and again after an input that ended it; returns how many crashes there were."""
    crashes, first = 0, numbers.start
    with tempfile.TemporaryDirectory() as folder:
        progress = Path(folder) / "progress"
        while first < numbers.stop:
            progress.write_bytes(first.to_bytes(8, "little") + bytes(8))
            rest = ["--first", str(first), "--inputs", str(numbers.stop - first)]
            command = [sys.executable, "-m", "tests.torture.fuzz", "--parser", name, "--seed", str(seed), *rest]
            ended = subprocess.run([*command, "--out", str(out), "--progress", str(progress)], check=False)
            content = progress.read_bytes()
            crashes += int.from_bytes(content[8:], "little")
            first = int.from_bytes(content[:8], "little")
            if ended.returncode < 0:
                with tempfile.TemporaryDirectory() as seeds:
                    made = input_of(PARSERS[name](Path(seeds)), name, seed, first)
                keep(Crash(first, f"the process ended by signal {-ended.returncode}", made), out, name, seed)
                crashes, first = crashes + 1, first + 1
            elif ended.returncode:
                raise SystemExit(ended.returncode)
    return crashes


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    arguments.add_argument("--parser", choices=[*PARSERS, "all"], required=True)
    arguments.add_argument("--inputs", type=int, default=1000)
    arguments.add_argument("--first", type=int, default=0)
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--out", type=Path, default=Path(tempfile.gettempdir()) / "fuzz")
    arguments.add_argument("--progress", type=Path, help="Used between the two processes.")
    options = arguments.parse_args()
    numbers = range(options.first, options.first + options.inputs)
    if options.progress:
        work(options.parser, options.seed, numbers, options.out, options.progress)
        return
    total = 0
    for name in PARSERS if options.parser == "all" else [options.parser]:
        started, children = time.perf_counter(), os.times()
        crashes = watch(name, options.seed, numbers, options.out)
        used = os.times()
        cpu = used.children_user + used.children_system - children.children_user - children.children_system
        result = {
            "parser": name,
            "inputs": options.inputs,
            "seed": options.seed,
            "crashes": crashes,
            "cpu": round(cpu, 1),
        }
        print(json.dumps({**result, "seconds": round(time.perf_counter() - started, 1)}), flush=True)
        total += crashes
    sys.exit(1 if total else 0)


if __name__ == "__main__":
    main()
