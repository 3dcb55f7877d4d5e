#!/usr/bin/env python3
r"""Runs a command as several local processes that find each other as the hosts of a pod do.

    python launch/simulate_hosts.py -n 4 --devices_per_host 2 -- \
        imagen-jax train --config=configs/quickstart.py:base --workdir=runs/base

starts four processes with two CPU devices each. Each line that one prints comes after its index: ``[2] Training …``.
``imagen_jax.train`` alone does for ``python -m imagen_jax.train``.

When one ends with an error, the others have ``--grace_seconds`` to notice by themselves and say so, and are ended then.
The exit status is that of the one that failed first, 128 and the signal's number where a signal ended it; status 3,
which says that another is the cause, counts only where no other failed. Ctrl-C and SIGTERM go to all of them.
"""

import argparse
import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import TextIO

POLL_SECONDS = 0.1
LOST = 3
"""Exit status of a process of ours that ended because another one did."""

EXAMPLE = "-n 2 -- imagen-jax train --config=configs/quickstart.py:base --workdir=runs/base"

SECONDS_TO_OBEY = 10.0
"""How long a process may take to end after another one ended with an error; then it is killed."""

SECONDS_TO_SAVE = 120.0
"""How long all may take to end after Ctrl-C or SIGTERM, for a training keeps a checkpoint after the present step."""


def main(arguments: Sequence[str]) -> int:
    """Runs the command line, and returns the exit status."""
    options = parse(arguments)
    address = f"127.0.0.1:{find_free_port()}"
    hosts = [start(options.command, address, options, index) for index in range(options.hosts)]
    readers = [
        threading.Thread(target=forward, args=(index, host.stdout), daemon=True) for index, host in enumerate(hosts)
    ]
    for index, host in enumerate(hosts):
        print_line(f"[{index}] started as process {host.pid}")
    for reader in readers:
        reader.start()
    deadlines: list[float] = []

    def pass_on(number: int, frame: object) -> None:
        deadlines.append(time.monotonic() + SECONDS_TO_SAVE)
        tell_all(hosts, number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, pass_on)
    status = wait(hosts, options.grace_seconds, deadlines)
    for host in hosts:
        # Its worker processes, where it was killed before it could end them.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(host.pid, signal.SIGKILL)
    for reader in readers:
        reader.join()
    return status


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Reads the options and the command, which begins after ``--``; ends with status 2 where they are wrong."""
    parser = argparse.ArgumentParser(
        description="Runs a command as several local processes that find each other as the hosts of a pod do."
    )
    parser.add_argument("-n", "--hosts", type=int, required=True, help="number of processes")
    parser.add_argument("--devices_per_host", type=int, default=1, help="CPU devices of each")
    parser.add_argument(
        "--grace_seconds", type=float, default=60.0, help="time the others have to end after one ended with an error"
    )
    parser.add_argument(
        "command", nargs="+", help="after --: a program and its arguments, or imagen_jax.… for a module"
    )
    options, unknown = parser.parse_known_args(arguments)
    if unknown and "--" not in arguments:
        # Such a flag is most likely one of the command's.
        parser.exit(2, f"error: {unknown[0]} is unknown here: write -- before the command, as in {EXAMPLE}\n")
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    if options.hosts < 1 or options.devices_per_host < 1:
        parser.error("-n and --devices_per_host are at least 1")
    if re.fullmatch(r"imagen_jax(\.\w+)+", options.command[0]):
        options.command[:0] = [sys.executable, "-m"]
    if shutil.which(options.command[0]) is None:
        parser.exit(2, f"error: there is no program {options.command[0]!r}: correct its name, or give its path\n")
    return options


def find_free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(command: Sequence[str], address: str, options: argparse.Namespace, index: int) -> subprocess.Popen[str]:
    """Starts the process of one host; in a session of its own, so that Ctrl-C comes from us and only once."""
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(options.devices_per_host),
        "PYTHONUNBUFFERED": "1",
    }
    flags = [f"--coordinator={address}", f"--process_count={options.hosts}", f"--process_index={index}"]
    return subprocess.Popen(
        [*command, *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=environment,
        start_new_session=True,
    )


def forward(index: int, lines: TextIO) -> None:
    """Prints what a process prints, line by line, each after its index."""
    for line in lines:
        print_line(f"[{index}] {line.rstrip()}")


def print_line(line: str) -> None:
    """Prints a line in one write: ``print`` takes two, and the line of another thread may come between."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def wait(hosts: Sequence[subprocess.Popen[str]], grace_seconds: float, deadlines: list[float]) -> int:
    """Waits until all have ended; the others not longer than the grace after the first failure.

    Args:
        hosts: the processes.
        grace_seconds: the grace.
        deadlines: by when they have to end, as soon as they were told to; those that don't obey are killed.

    Returns:
        The status of the first that failed of itself.
    """
    status = 0
    failed: float | None = None
    ended: set[int] = set()
    while len(ended) < len(hosts):
        now = time.monotonic()
        for index, host in enumerate(hosts):
            code = host.poll()
            if code is None or index in ended:
                continue
            ended.add(index)
            if code:
                print_line(f"[{index}] ended with {describe(code)}")
            if code and status in (0, LOST):
                status = code if code > 0 else 128 - code
            if code and failed is None:
                failed = now
        if failed is not None and not deadlines and now - failed > grace_seconds:
            deadlines.append(now + SECONDS_TO_OBEY)
            tell_all(hosts, signal.SIGTERM)
        if deadlines and now > deadlines[0]:
            tell_all(hosts, signal.SIGKILL)
        time.sleep(POLL_SECONDS)
    return status


def describe(code: int) -> str:
    """How a process ended, in words."""
    return f"status {code}" if code > 0 else f"signal {-code} ({signal.Signals(-code).name})"


def tell_all(hosts: Sequence[subprocess.Popen[str]], number: int) -> None:
    """Sends a signal to all that still run."""
    for host in hosts:
        if host.poll() is None:
            host.send_signal(number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
