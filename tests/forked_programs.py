"""Runs a command in a process of its own that need not import JAX again: it is a fork of one that has."""

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from multiprocessing import forkserver
from pathlib import Path

import pytest

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.preloaded"])
CHECKOUT = Path(__file__).parents[1]


def run_forked(program: str | Path, *arguments: str | bytes) -> subprocess.CompletedProcess:
    """Runs a module, or a file that ends in ``.py``, with its arguments; as ``subprocess.run`` with captured text."""
    start_server()
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        command = [str(program), *map(os.fsdecode, arguments)]
        streams = [multiprocessing.reduction.DupFd(stream.fileno()) for stream in (out, err)]
        process = CONTEXT.Process(target=become, args=(command, os.getcwd(), dict(os.environ), streams))
        process.start()
        process.join()
        texts = [stream.read() for stream in (out, err) if not stream.seek(0)]
        return subprocess.CompletedProcess(command, process.exitcode, *texts)


def start_server() -> None:
    """Starts the process that forks, unless it runs.

    It would not find the modules to preload, and then without a word import none: Python does not give it ``sys.path``,
    and a test may be in another folder.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(CHECKOUT))
        forkserver.ensure_running()


def become(command: Sequence[str], folder: str, environment: dict[str, str], streams: Sequence) -> None:
    """Runs the command in this process, which has just been forked."""
    for number, stream in enumerate(streams, 1):
        os.dup2(stream.detach(), number)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = list(command)
    if command[0].endswith(".py"):
        runpy.run_path(command[0], run_name="__main__")
    else:
        runpy.run_module(command[0], run_name="__main__", alter_sys=True)
