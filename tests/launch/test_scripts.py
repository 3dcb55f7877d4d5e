"""What every shell script must pass."""

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

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


@pytest.mark.parametrize("reader", [">&-", "| true"])
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
