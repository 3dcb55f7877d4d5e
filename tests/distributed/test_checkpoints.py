"""Two processes, of which one can't read or write a checkpoint: they go the same way, and nobody waits for ever."""

import os
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


@pytest.mark.parametrize(
    ("case", "reason"), [("flip", "files have changed"), ("one_cannot_read", "process 1 can't read it")]
)
def test_what_one_can_not_read_none_uses(tmp_path, case, reason):
    status, told = run(tmp_path, case)
    assert status == 0, told
    assert all("read 1, as written: True" in one for one in told), told
    assert f"/2 is damaged ({reason}" in told[0] and "kept as 2.damaged" in told[0], told
    assert "damaged" not in told[1], "process 0 speaks for all"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2.damaged"]


def test_what_one_sees_late_all_go_on_from(tmp_path):
    status, told = run(tmp_path, "one_sees_late")
    assert status == 0, told
    assert all("the newest is 2" in one and "read 2, as written: True" in one for one in told), told
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2"]


def test_where_one_has_no_room_none_writes_and_all_go_on(tmp_path):
    status, told = run(tmp_path, "one_has_no_room")
    assert status == 0, told
    assert "not written: process 1 can't write a checkpoint" in told[0], told
    assert "not written: a checkpoint takes" in told[1], told
    assert all("read 3, as written: True" in one for one in told), told


def test_where_one_fails_while_writing_all_end_soon_and_the_one_before_stays(tmp_path):
    began = time.monotonic()
    status, told = run(tmp_path, "one_fails_while_writing")
    assert status == 74 and time.monotonic() - began < 100, told
    assert "(File too large)" in told[1] and "run the same command on all hosts" in told[1], told
    assert "error: process 1 has ended: a checkpoint can't be written" in told[0] and "status 3" in told[0], told
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.isdecimal()) == ["1", "2"]
