"""Two processes, of which one can't read or write a checkpoint: they do the same, and neither waits for ever."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.thorough

CHECKOUT = Path(__file__).parents[2]


def run(folder, case):
    """Runs two processes of two devices; returns the status and what each printed."""
    launcher = [sys.executable, str(CHECKOUT / "launch" / "simulate_hosts.py"), "-n", "2", "--devices_per_host", "2"]
    script = [sys.executable, str(Path(__file__).with_name("trust_checkpoints.py")), f"--folder={folder}"]
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT), "IMAGEN_JAX_NO_CACHE": "1"}
    environment.pop("XLA_FLAGS", None)
    ended = subprocess.run(
        [*launcher, "--", *script, f"--case={case}"], env=environment, capture_output=True, text=True, timeout=240
    )
    return ended.returncode, [
        "\n".join(line[4:] for line in (ended.stdout + ended.stderr).splitlines() if line.startswith(f"[{index}]"))
        for index in (0, 1)
    ]


@pytest.mark.parametrize(("case", "fact"), [("flip", "2.damaged"), ("one_cannot_read", "process 1 ")])
def test_what_one_can_not_read_none_uses(tmp_path, case, fact):
    status, printed = run(tmp_path, case)
    assert status == 0, printed
    assert all("read 1, as written: True" in one for one in printed), printed
    assert fact in printed[0] and f"{tmp_path / '2'} " in printed[0] and " 2.damaged" in printed[0], printed
    assert "damaged" not in printed[1], "only process 0 prints it"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2.damaged"]


def test_what_one_sees_late_all_continue_from(tmp_path):
    status, printed = run(tmp_path, "one_sees_late")
    assert status == 0, printed
    assert all("the newest is 2" in one and "read 2, as written: True" in one for one in printed), printed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2"]


def test_where_one_has_no_room_none_writes_and_all_continue(tmp_path):
    status, printed = run(tmp_path, "one_has_no_room")
    assert status == 0, printed
    assert "not written: process 1 " in printed[0], printed
    assert re.search(r"not written: .* 0 MB ", printed[1]), printed
    assert all("read 3, as written: True" in one for one in printed), printed


def test_where_one_fails_while_writing_all_end_soon_and_the_one_before_stays(tmp_path):
    began = time.monotonic()
    status, printed = run(tmp_path, "one_fails_while_writing")
    assert status == 74 and time.monotonic() - began < 100, printed
    assert "File too large" in printed[1], printed
    assert "error: process 1 " in printed[0] and "status 3" in printed[0], printed
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.isdecimal()) == ["1", "2"]
