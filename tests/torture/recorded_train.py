"""As ``python -m imagen_jax.train``, but writes down what it does, so that a kill can be aimed and runs be compared.

Each process of a run adds lines to the file ``TORTURE_RECORD``, each with the time:

    {"at": "main"}, {"at": "joined"}     it has imported everything; it has found the others
    {"at": "loop", "step", "mesh"}       the loop begins with this step, on the mesh ``TORTURE_MESH``
    {"at": "batch", "step", "keys", …}   the batch of a step was handed out, with a digest of all that is in it
    {"at": "preview" …, "step"}          a hook begins; after it comes {"at": "preview ended"}

Where ``TORTURE_CUT_LINE`` is a step, the process kills itself when half of that step's line of metrics is written.
"""

# ruff: noqa: E402  (the first lines must run before the long imports)
import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
if __name__ == "__main__":
    # Before the long imports: this process must end with the one that kills it.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(os.environ["TORTURE_PARENT"]):
        sys.exit("the parent process has ended")

import hashlib
import itertools
import json
import time

import numpy as np

from imagen_jax import train
from imagen_jax.commands import train as command
from imagen_jax.runtime import processes
from imagen_jax.runtime.main import run_main
from imagen_jax.training.monitoring.metrics import MetricsWriter

RECORD = os.open(os.environ["TORTURE_RECORD"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
MESH = os.environ.get("TORTURE_MESH", "")
CUT = int(os.environ.get("TORTURE_CUT_LINE", "0"))

run_loop, join_as_flagged, write_line = train.run_loop, command.join_as_flagged, MetricsWriter.write


def record(at, **facts):
    """Appends a line at once. A line that a kill truncates damages no other line."""
    os.write(RECORD, f"\n{json.dumps({'at': at, 'when': time.time(), **facts})}\n".encode())


def digest_of(examples):
    """Of all arrays of a host batch."""
    digest = hashlib.sha256()
    for name in sorted(examples):
        digest.update(name.encode() + np.ascontiguousarray(examples[name]).tobytes())
    return digest.hexdigest()[:16]


def recorded(hook):
    """A hook that records its begin and end, except the loop's own hook, which runs at each step."""

    def act(number, info):
        record(hook.name, step=number)
        hook.act(number, info)
        record(f"{hook.name} ended", step=number)

    return hook if hook.name == "loop" else hook._replace(act=act)


def recorded_loop(state, *arguments, put, hooks, **named):
    first = int(state.step) + 1
    numbers = itertools.count(first)
    record("loop", step=first, mesh=MESH)

    def recorded_put(examples):
        record("batch", step=next(numbers), keys=examples["key"].tolist(), digest=digest_of(examples))
        return put(examples)

    return run_loop(state, *arguments, put=recorded_put, hooks=list(map(recorded, hooks)), **named)


def recorded_join():
    join_as_flagged()
    record("joined")


def cut_line(writer, step, metrics):
    """Writes half a line and dies, at one step; else the whole."""
    if step == CUT:
        line = json.dumps({"step": step, **metrics})
        writer._file.write(line[: len(line) // 2])
        writer._file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    write_line(writer, step, metrics)


if __name__ == "__main__":
    # Otherwise a process whose peer was killed before they connected would wait for five minutes.
    processes.JOIN_SECONDS = 45
    train.run_loop, command.join_as_flagged, MetricsWriter.write = recorded_loop, recorded_join, cut_line
    record("main")
    run_main(command.main)
