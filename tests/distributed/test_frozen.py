"""Two hosts, one of which stands still (SIGSTOP) for longer than the heartbeat, or shorter, and then continues."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from imagen_jax.runtime.exit_status import ExitStatus

LAUNCHER = Path(__file__).parents[2] / "launch" / "simulate_hosts.py"
HEARTBEAT = 3.0

pytestmark = pytest.mark.thorough

PROGRAM = """
import time
from imagen_jax.runtime import processes
from imagen_jax.runtime.main import run_main
from imagen_jax.runtime.distributed_flags import join_as_flagged

def main():
    join_as_flagged()
    print("began", flush=True)
    for step in range(1, 120):
        processes.note_step(step)
        time.sleep(0.1)
    print("done", flush=True)

run_main(main)
"""


@pytest.fixture
def hosts(tmp_path):
    """Two hosts that have begun: the launcher, what they have printed, and their process numbers."""
    (tmp_path / "program.py").write_text(PROGRAM)
    output = tmp_path / "output.txt"
    command = [sys.executable, LAUNCHER, "-n", "2", "--", sys.executable, tmp_path / "program.py"]
    with output.open("w") as stream:
        launcher = subprocess.Popen(
            [*command, f"--heartbeat_seconds={HEARTBEAT:g}"], stdout=stream, stderr=stream,
            env={**os.environ, "PYTHONPATH": os.getcwd()},
        )  # fmt: skip
    deadline = time.monotonic() + 300
    while output.read_text().count("began") < 2:
        assert launcher.poll() is None and time.monotonic() < deadline, output.read_text()
        time.sleep(0.05)
    yield launcher, output.read_text, [int(one) for one in re.findall(r"started as process (\d+)", output.read_text())]
    launcher.kill()


@pytest.mark.parametrize("victim", [0, 1])
def test_longer_than_the_heartbeat_and_each_names_it_with_a_status_of_its_own(hosts, victim):
    launcher, read, numbers = hosts
    os.kill(numbers[victim], signal.SIGSTOP)
    # Twice as long again and ten seconds more, and JAX would abort the other one.
    time.sleep(2.5 * HEARTBEAT)
    printed = read()
    os.kill(numbers[victim], signal.SIGCONT)
    other = 1 - victim
    assert re.search(rf"\[{other}\] error: process {victim} .*\b{HEARTBEAT:g} s\b", printed)
    assert f"[{other}] ended with status {ExitStatus.PEER_LOST}" in printed
    assert launcher.wait(timeout=60) == ExitStatus.PEER_LOST, read()
    assert re.search(rf"\[{victim}\] error: .*\b{victim}\b.* \d+ s\b", read())
    assert f"[{victim}] ended with status {ExitStatus.PEER_LOST}" in read()


@pytest.mark.parametrize("victim", [0, 1])
def test_shorter_than_the_heartbeat_and_both_continue(hosts, victim):
    launcher, read, numbers = hosts
    os.kill(numbers[victim], signal.SIGSTOP)
    time.sleep(HEARTBEAT / 2)
    os.kill(numbers[victim], signal.SIGCONT)
    assert launcher.wait(timeout=60) == 0, read()
    assert read().count("done") == 2
