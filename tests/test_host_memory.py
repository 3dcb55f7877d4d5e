"""Programs on CPUs begin again with large pages, once, where that helps; freed memory goes back to the system."""

import os
import subprocess
import sys

import pytest

from imagen_jax import host_memory
from imagen_jax.host_memory import (
    TUNABLE,
    begin_again_with_large_pages,
    glibc_version,
    is_one_of_our_mains,
    would_help,
)

PRINTS_EACH_BEGINNING = "import os; print(os.environ.get('GLIBC_TUNABLES', 'small'), flush=True)\n"


def beginnings_of(tmp_path, command, **environment):
    """What each beginning of a Python program finds in the variable."""
    (tmp_path / "sitecustomize.py").write_text(PRINTS_EACH_BEGINNING)
    inherited = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    inherited |= {"PYTHONPATH": f"{tmp_path}{os.pathsep}{os.getcwd()}", "JAX_PLATFORMS": "cpu"} | environment
    done = subprocess.run([sys.executable, *command], env=inherited, capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_a_main_begins_again_once(tmp_path):
    found = beginnings_of(tmp_path, ["-m", "imagen_jax.host_memory"])
    assert found == (["small", TUNABLE] if would_help() else ["small"])


def test_what_the_user_set_stays(tmp_path):
    found = beginnings_of(tmp_path, ["-m", "imagen_jax.host_memory"], GLIBC_TUNABLES="glibc.malloc.arena_max=2")
    assert found == ["glibc.malloc.arena_max=2"]


def test_a_program_that_only_imports_us_goes_on(tmp_path):
    assert beginnings_of(tmp_path, ["-c", "import imagen_jax"]) == ["small"]


def test_only_our_mains_are_meant():
    assert is_one_of_our_mains(["python", "-P", "-m", "imagen_jax.sample", "--prompt=-m"])
    assert not is_one_of_our_mains(["python", "-m", "pytest", "imagen_jax.sample"])
    assert not is_one_of_our_mains(["python", "imagen_jax/sample.py"])


@pytest.mark.parametrize(
    ("reason", "helps"),
    [("nothing", True), ("platform", False), ("glibc", False), ("kernel", False), ("accelerator", False)],
)
def test_it_helps_on_a_cpu_with_a_kernel_and_a_library_that_can(monkeypatch, tmp_path, reason, helps):
    pages = tmp_path / "enabled"
    pages.write_text("always madvise [never]" if reason == "kernel" else "always [madvise] never")
    monkeypatch.setattr(host_memory, "PAGES", pages)
    monkeypatch.setattr(host_memory, "ACCELERATORS", ("null",) if reason == "accelerator" else ())
    monkeypatch.setattr(host_memory, "glibc_version", lambda: (2, 34) if reason == "glibc" else (2, 36))
    monkeypatch.setenv("JAX_PLATFORMS", "tpu" if reason == "platform" else "cpu")
    assert would_help() is helps


def test_this_test_run_is_no_main_of_ours(monkeypatch):
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    begin_again_with_large_pages()
    assert "GLIBC_TUNABLES" not in os.environ


FREES_MUCH = """
import os
from pathlib import Path
from imagen_jax.host_memory import give_back

def held():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

# Small enough to come from the heap, and the last one keeps the heap from shrinking by itself.
pieces = [bytearray(50_000) for _ in range(4000)]
last = bytearray(50_000)
pieces.clear()
before = held()
give_back()
print(before - held())
"""


@pytest.mark.skipif(glibc_version() == (0, 0), reason="the C library here is not glibc, and has its own ways")
def test_what_has_been_freed_is_given_back():
    done = subprocess.run([sys.executable, "-c", FREES_MUCH], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 100_000_000
