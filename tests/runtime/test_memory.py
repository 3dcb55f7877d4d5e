"""A training restarts with large pages, once, where that helps; freed memory goes back to the system."""

import os
import subprocess
import sys

import pytest

from imagen_jax.runtime import memory
from imagen_jax.runtime.memory import TUNABLE, glibc_version, would_help

PRINTS_EACH_BEGINNING = """
import os, sys

def restart_without_jax(*arguments):
    assert "jax" not in sys.modules, "it would be loaded twice"
    restart(*arguments)

restart, os.execv = os.execv, restart_without_jax
print(os.environ.get("GLIBC_TUNABLES", "small"), flush=True)
"""


def beginnings_of(tmp_path, command, **environment):
    """What each beginning of a Python program finds in the variable."""
    (tmp_path / "sitecustomize.py").write_text(PRINTS_EACH_BEGINNING)
    inherited = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    inherited |= {"PYTHONPATH": f"{tmp_path}{os.pathsep}{os.getcwd()}", "JAX_PLATFORMS": "cpu"} | environment
    done = subprocess.run([sys.executable, *command], env=inherited, capture_output=True, text=True, check=False)
    return [line for line in done.stdout.splitlines() if line == "small" or line.startswith("glibc")]


@pytest.mark.parametrize(
    "command",
    [["-m", "imagen_jax", "train"], pytest.param(["-m", "imagen_jax.train"], marks=pytest.mark.thorough)],
)
def test_a_training_restarts_once(tmp_path, command):
    found = beginnings_of(tmp_path, [*command, "--helpshort"])
    assert found == (["small", TUNABLE] if would_help() else ["small"])


@pytest.mark.thorough
def test_what_the_user_set_stays(tmp_path):
    found = beginnings_of(
        tmp_path, ["-m", "imagen_jax", "train", "--helpshort"], GLIBC_TUNABLES="glibc.malloc.arena_max=2"
    )
    assert found == ["glibc.malloc.arena_max=2"]


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(["-c", "import imagen_jax"], marks=pytest.mark.thorough),
        pytest.param(["-c", "import imagen_jax.train"], marks=pytest.mark.thorough),
        ["-m", "imagen_jax", "--version"],
    ],
)
def test_nothing_else_restarts(tmp_path, command):
    assert beginnings_of(tmp_path, command) == ["small"]


@pytest.mark.parametrize(
    ("reason", "helps"),
    [("nothing", True), ("platform", False), ("glibc", False), ("kernel", False), ("accelerator", False)],
)
def test_it_helps_on_a_cpu_with_a_kernel_and_a_library_that_can(monkeypatch, tmp_path, reason, helps):
    pages = tmp_path / "enabled"
    pages.write_text("always madvise [never]" if reason == "kernel" else "always [madvise] never")
    monkeypatch.setattr(memory, "PAGES", pages)
    monkeypatch.setattr(memory, "ACCELERATORS", ("null",) if reason == "accelerator" else ())
    monkeypatch.setattr(memory, "glibc_version", lambda: (2, 34) if reason == "glibc" else (2, 36))
    monkeypatch.setenv("JAX_PLATFORMS", "tpu" if reason == "platform" else "cpu")
    assert would_help() is helps


FREES_MUCH = """
import os
from pathlib import Path
from imagen_jax.runtime.memory import release_memory

def held():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

# Small enough to come from the heap, and the last one keeps the heap from shrinking by itself.
pieces = [bytearray(50_000) for _ in range(4000)]
last = bytearray(50_000)
pieces.clear()
before = held()
release_memory()
print(before - held())
"""


@pytest.mark.skipif(glibc_version() == (0, 0), reason="the C library here is not glibc, and has its own ways")
def test_what_has_been_freed_is_given_back():
    done = subprocess.run([sys.executable, "-c", FREES_MUCH], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 100_000_000
