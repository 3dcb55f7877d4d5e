"""The launcher that imitates several hosts, with programs that need no JAX."""

import re
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from imagen_jax.runtime.exit_status import ExitStatus

LAUNCHER = Path(__file__).parents[2] / "launch" / "simulate_hosts.py"

PROGRAM = """
import os, signal, sys, time
index = int(sys.argv[-1].removeprefix("--process_index="))
print(index, sys.argv[1:], os.environ["JAX_PLATFORMS"], os.environ["JAX_NUM_CPU_DEVICES"], flush=True)
"""


def launch(tmp_path, body, *options):
    (tmp_path / "program.py").write_text(PROGRAM + body)
    command = [sys.executable, LAUNCHER, *options, "--", sys.executable, tmp_path / "program.py", "--flag=1"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_each_process_gets_its_index_and_its_lines_have_it(tmp_path):
    launched = launch(tmp_path, "print('a', file=sys.stderr)", "-n", "3", "--devices_per_host", "2")
    printed, _ = launched.communicate(timeout=900)
    assert launched.returncode == 0
    for index in range(3):
        lines = [line for line in printed.splitlines() if line.startswith(f"[{index}] ")]
        assert re.fullmatch(rf"\[{index}\] started as process \d+", lines[0])
        flags = rf"'--coordinator=127\.0\.0\.1:\d+', '--process_count=3', '--process_index={index}'"
        assert re.fullmatch(rf"\[{index}\] {index} \['--flag=1', {flags}\] cpu 2", lines[1])
        assert lines[2:] == [f"[{index}] a"]


@pytest.mark.parametrize(
    ("endings", "status", "last"),
    [
        ("{1: lambda: sys.exit(5)}", 5, "[0] ended with signal 15 (SIGTERM)"),
        ("{1: lambda: os.kill(os.getpid(), signal.SIGKILL)}", 137, "[0] ended with signal 15 (SIGTERM)"),
        ("{0: lambda: sys.exit(3), 1: lambda: (time.sleep(0.5), sys.exit(2))}", 2, "[1] ended with status 2"),
    ],
)
def test_when_one_fails_the_others_get_a_grace_and_its_status_counts(tmp_path, endings, status, last):
    body = f"{endings}.get(index, lambda: time.sleep(60))()"
    launched = launch(tmp_path, body, "-n", "2", "--grace_seconds", "1.5")
    began = time.monotonic()
    printed, _ = launched.communicate(timeout=900)
    assert launched.returncode == status and printed.splitlines()[-1] == last and time.monotonic() - began < 20


def test_an_interruption_goes_to_all(tmp_path):
    body = """
signal.signal(signal.SIGINT, lambda *_: sys.exit(130))
print("ready", flush=True)
while True:  # a signal right before one long sleep would be seen after it
    time.sleep(0.1)
"""
    launched = launch(tmp_path, body, "-n", "2")
    printed = ""
    while printed.count("ready") < 2:
        printed += launched.stdout.readline()
    launched.send_signal(signal.SIGINT)
    printed, _ = launched.communicate(timeout=900)
    assert launched.returncode == 130 and {"[0] ended with status 130", "[1] ended with status 130"} <= set(
        printed.splitlines()
    )


def test_the_launcher_knows_the_status_of_a_lost_process():
    """It has a number of its own, since it runs without the package."""
    assert runpy.run_path(str(LAUNCHER))["LOST"] == ExitStatus.PEER_LOST


def test_no_process_at_all_is_a_mistake(tmp_path):
    launched = launch(tmp_path, "", "-n", "0")
    printed, _ = launched.communicate(timeout=900)
    assert launched.returncode == 2 and "error: " in printed


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--", "imagen-jx", "train"], "imagen-jx"),
        (["--", "./not/there"], "./not/there"),
        ([sys.executable, "--version", "--config=a"], " -- "),
        (["--host", "--", sys.executable], "--host"),
    ],
)
def test_a_mistake_on_the_command_line_is_told_before_anything_starts(arguments, told):
    command = [sys.executable, LAUNCHER, "-n", "2", *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2 and ended.stdout == ""
    assert told in ended.stderr and "error: " in ended.stderr and "Traceback" not in ended.stderr
