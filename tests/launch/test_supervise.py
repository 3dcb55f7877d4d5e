"""`supervise.sh`, with small commands of the shell that end in all the ways a training can."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SUPERVISE = Path(__file__).parent.parent.parent / "launch" / "supervise.sh"
QUICK = ("--first_wait=0", "--longest_wait=0")
HEARS_SIGINT = (
    "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execvp(sys.argv[1], sys.argv[1:])"
)
"""Becomes the command that follows, which hears SIGINT."""


def write_command(folder: Path, *statuses: int) -> list[str]:
    """A command that ends with these statuses, one after the other, and notes each run in `runs`."""
    lines = "\n".join(f"{number}) exit {status} ;;" for number, status in enumerate(statuses, start=1))
    (folder / "command.sh").write_text(f"echo run >>runs\ncase $(wc -l <runs) in\n{lines}\nesac\nexit 99\n")
    return ["sh", "command.sh"]


def count_runs(folder: Path) -> int:
    return len((folder / "runs").read_text().splitlines())


@pytest.mark.parametrize("status", [0, 2, 130])
def test_what_is_done_to_be_mended_or_interrupted_is_not_run_again(run_script, tmp_path, status):
    ended = run_script("launch/supervise.sh", *QUICK, *write_command(tmp_path, status))
    assert ended.returncode == status
    assert count_runs(tmp_path) == 1


def test_it_runs_again_until_the_command_is_done(run_script, tmp_path):
    ended = run_script("launch/supervise.sh", *QUICK, *write_command(tmp_path, 1, 137, 75, 3, 0))
    assert ended.returncode == 0
    assert count_runs(tmp_path) == 5
    told = re.findall(
        r"^==> \d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ Status (\d+) after 0 s: restart (\d) in", ended.stdout, re.M
    )
    assert told == [("1", "1"), ("137", "2"), ("75", "3"), ("3", "4")]


def test_it_gives_up_with_the_status_of_the_last_failure(run_script, tmp_path):
    ended = run_script("launch/supervise.sh", *QUICK, "--give_up_after=3", *write_command(tmp_path, 1, 1, 134, 0))
    assert ended.returncode == 134
    assert count_runs(tmp_path) == 3
    assert " 3 failures" in ended.stdout


def test_a_leave_on_request_is_no_failure(run_script, tmp_path):
    ended = run_script("launch/supervise.sh", *QUICK, "--give_up_after=2", *write_command(tmp_path, 75, 75, 75, 75, 0))
    assert ended.returncode == 0
    assert count_runs(tmp_path) == 5


def test_progress_resets_the_count(run_script, tmp_path):
    (tmp_path / "command.sh").write_text("echo run >>runs\n[ $(wc -l <runs) -lt 4 ] && sleep 1.1 && exit 1\nexit 1\n")
    ended = run_script("launch/supervise.sh", *QUICK, "--give_up_after=2", "--progress_seconds=1", "sh", "command.sh")
    assert ended.returncode == 1
    # Three runs with progress, whose failures stay single, and one more failure without.
    assert count_runs(tmp_path) == 4


def test_waits_double_up_to_the_longest(run_script, tmp_path):
    (tmp_path / "bin").mkdir()
    sleep = tmp_path / "bin" / "sleep"
    sleep.write_text('#!/bin/sh\necho "$1" >>waits\n')
    sleep.chmod(0o755)
    run_script(
        "launch/supervise.sh",
        "--first_wait=5",
        "--longest_wait=30",
        "--give_up_after=6",
        *write_command(tmp_path, 1, 1, 1, 1, 1, 1),
        PATH=f"{tmp_path / 'bin'}:{os.environ['PATH']}",
    )
    assert (tmp_path / "waits").read_text().split() == ["5", "10", "20", "30", "30"]


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_goes_on_to_the_command_and_ends_both(tmp_path, name):
    (tmp_path / "command.sh").write_text(
        f"trap 'sleep 0.3; echo saved >saved; exit 75' {name.removeprefix('SIG')}\n"
        "touch began\nwhile :; do sleep 0.05; done\n"
    )
    supervisor = subprocess.Popen(
        # Tests that run in the background of a shell ignore SIGINT, and so would what they start.
        [sys.executable, "-c", HEARS_SIGINT, "bash", SUPERVISE, f"--status_file={tmp_path / 'ended'}", "bash",
         "command.sh"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    wait_for(tmp_path / "began")
    supervisor.send_signal(getattr(signal, name))
    printed, _ = supervisor.communicate(timeout=20)
    # 75 requests a restart, but after a signal nothing restarts.
    assert supervisor.returncode == 75
    assert (tmp_path / "saved").read_text() == "saved\n"
    assert (tmp_path / "ended").read_text() == "75\n"
    assert name in printed


def test_a_signal_ends_the_wait_for_a_restart(tmp_path):
    supervisor = subprocess.Popen(
        ["bash", SUPERVISE, "--first_wait=60", "sh", "-c", "touch began; exit 1"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
    )
    wait_for(tmp_path / "began")
    assert supervisor.stdout is not None
    assert "restart 1 in 60 s" in supervisor.stdout.readline()
    began = time.monotonic()
    supervisor.send_signal(signal.SIGTERM)
    supervisor.communicate(timeout=20)
    assert supervisor.returncode == 1
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "imagen-jax train"),
        (("--give_up_after=often", "true"), "--give_up_after=10"),
        (("--restart=1", "true"), "--restart"),
    ],
)
def test_a_mistake_is_a_sentence(run_script, arguments, sentence):
    ended = run_script("launch/supervise.sh", *arguments)
    assert ended.returncode == 2
    assert sentence in ended.stderr


def wait_for(file: Path) -> None:
    for _ in range(400):
        if file.exists():
            return
        time.sleep(0.05)
    raise TimeoutError(f"{file} did not appear")
