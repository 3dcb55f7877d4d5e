"""What every shell script must pass."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiers import thorough_except

CHECKOUT = Path(__file__).parent.parent.parent
SCRIPTS = [CHECKOUT / ".ci" / "run", *sorted((CHECKOUT / "launch").rglob("*.sh"))]


def name_of(file: Path) -> str:
    return file.relative_to(CHECKOUT).as_posix()


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shellcheck_finds_nothing():
    # From the checkout, which `# shellcheck source=` is relative to.
    found = subprocess.run(
        ["shellcheck", "--external-sources", *map(name_of, SCRIPTS)], cwd=CHECKOUT, capture_output=True, text=True
    )
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize("file", SCRIPTS, ids=name_of)
def test_a_script_can_be_read_and_says_what_it_is(file):
    read = subprocess.run(["bash", "-n", str(file)], capture_output=True, text=True)
    assert read.returncode == 0, read.stderr
    first, second = file.read_text().splitlines()[:2]
    assert first in ("#!/usr/bin/env bash", "# shellcheck shell=bash")
    assert second.startswith("# ")


@pytest.mark.parametrize("file", [file for file in SCRIPTS if file.read_text().startswith("#!")], ids=name_of)
def test_a_script_stops_at_the_first_mistake(file):
    assert "\nset -euo pipefail\n" in file.read_text()


@pytest.mark.parametrize("reader", thorough_except(["| true"], [">&-", "| true"]))
@pytest.mark.parametrize(
    "script",
    [
        "source launch/set_up.sh; say one; echo 1 >>FILE; sleep 0.3; say two; say three; echo 2 >>FILE",
        "bash launch/supervise.sh --first_wait=1 --give_up_after=2 bash -c 'echo again >>FILE; sleep 0.3; exit 1'",
    ],
)
def test_the_work_goes_on_where_nobody_reads_what_is_printed(script, reader, tmp_path):
    file = tmp_path / "done"
    command = ["bash", "-c", f"bash -c {shlex.quote(script.replace('FILE', str(file)))} {reader}; true"]
    subprocess.run(command, cwd=CHECKOUT, capture_output=True, check=True, timeout=60)
    assert len(file.read_text().splitlines()) == 2


@pytest.fixture(scope="module")
def lonely_launch(tmp_path_factory):
    """A checkout with nothing but ``launch/``, and every file in it."""
    checkout = tmp_path_factory.mktemp("checkout")
    shutil.copytree(CHECKOUT / "launch", checkout / "launch")
    return checkout, sorted(checkout.rglob("*"))


PROGRAMS = [file for file in (CHECKOUT / "launch").rglob("*.sh") if file.read_text().startswith("#!")]
PROGRAMS += (CHECKOUT / "launch").rglob("*.py")


@pytest.mark.parametrize("flag", thorough_except(["--help"], ["--help", "-h"]))
@pytest.mark.parametrize("file", sorted(PROGRAMS), ids=name_of)
def test_help_is_printed_and_nothing_is_done(file, flag, lonely_launch):
    checkout, files = lonely_launch
    program = [sys.executable, "-B"] if file.suffix == ".py" else ["bash"]
    command = [*program, name_of(file), flag]
    done = subprocess.run(command, cwd=checkout, env=os.environ | {"RUN_DIR": "new"}, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    # Its name, as in its examples, and more than a line.
    assert file.stem in done.stdout and len(done.stdout.splitlines()) > 3 and "#!" not in done.stdout
    assert sorted(checkout.rglob("*")) == files


@pytest.mark.parametrize("name", ["quickstart.sh", "test_other_python.sh"])
def test_a_script_without_arguments_refuses_any(name, lonely_launch):
    checkout, files = lonely_launch
    done = subprocess.run(
        ["bash", f"launch/{name}", "--hepl"], cwd=checkout, env=os.environ | {"RUN_DIR": "new"}, capture_output=True
    )
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"--hepl" in done.stderr and done.stderr.startswith(b"error: ")
    assert sorted(checkout.rglob("*")) == files


def test_the_command_that_is_supervised_gets_its_own_help():
    done = subprocess.run(
        ["bash", "launch/supervise.sh", "echo", "--help"], cwd=CHECKOUT, capture_output=True, text=True
    )
    assert done.returncode == 0 and done.stdout.startswith("--help\n")
