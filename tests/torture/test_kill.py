"""A few kills of the harness, and that it finds what is lost."""

import json
import shutil

import numpy as np
import pytest

from tests.torture.comparison import differences, same_bits
from tests.torture.kill import main, read_log
from tests.torture.runs import STEPS, RunPaths, effective_batches, effective_meshes, read_record

pytestmark = pytest.mark.thorough

SEEDS = {"one": 280, "two_processes": 46}
"""A line of metrics is cut in two, then a checkpoint; of two processes the first is killed while they write one."""


def paths_of(folder, name):
    return RunPaths(folder / name, folder / "data", folder / "cache")


def spoil(paths, change):
    """A copy of a run of which something is changed."""
    spoilt = paths_of(paths.workdir.parent, "spoilt")
    shutil.rmtree(spoilt.workdir, ignore_errors=True)
    shutil.copytree(paths.workdir, spoilt.workdir)
    shutil.copy(paths.record(0), spoilt.record(0))
    change(spoilt)
    return spoilt


def change_text(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.slow
@pytest.mark.parametrize(("variant", "kills"), [("one", 2), ("two_processes", 1)])
def test_what_is_killed_and_started_again_ends_as_if_it_had_not_been(variant, kills, tmp_path):
    status = main([f"--kills={kills}", f"--seed={SEEDS[variant]}", f"--variant={variant}", f"--out={tmp_path}"])
    report = (tmp_path / "kill.md").read_text()
    assert status == 0, report
    log = read_log(tmp_path)
    assert [line["kind"] for line in log if line["kind"] == "kill"] == ["kill"] * kills, report
    assert all(line["differences"] == [] for line in log if line["kind"] == "run"), report
    if variant == "two_processes":
        return

    whole = paths_of(tmp_path / "one", "whole")
    assert differences(whole, whole, 1) == []
    other = read_record(whole.record(0))[-1]
    found = differences(whole, spoil(whole, lambda it: it.record(0).write_text(f"{json.dumps(other)}\n")), 1)
    assert "batch of step 1" in found
    found = differences(
        whole, spoil(whole, lambda it: change_text(it.workdir / "metrics.jsonl", '"loss": 0.', '"loss": 1.')), 1
    )
    assert found == ["line 1 of metrics"]
    # The checkpoint before the last one is another state, of another step.
    newest = max((whole.workdir / "checkpoints").iterdir(), key=lambda path: int(path.name)).name
    found = differences(whole, spoil(whole, lambda it: shutil.rmtree(it.workdir / "checkpoints" / newest)), 1)
    assert {"data position", "step"} <= set(found) and any(name.startswith("ema_params/") for name in found)
    assert any(name.startswith("params/") for name in found) and any("opt" in name for name in found)


def test_the_last_start_that_made_a_step_counts(tmp_path):
    paths = paths_of(tmp_path, "run")
    lines = [{"at": "loop", "step": 1, "mesh": "a"}]
    lines += [{"at": "batch", "step": step, "keys": ["old"], "digest": "0"} for step in range(1, 16)]
    lines += [{"at": "loop", "step": 11, "mesh": "b"}]
    lines += [{"at": "batch", "step": step, "keys": ["new"], "digest": "1"} for step in range(11, STEPS + 1)]
    truncated = '{"at": "batch", "step": 3, "ke'
    paths.record(0).write_text("".join(f"\n{json.dumps(line)}\n" for line in lines) + f"\n{truncated}")
    batches = effective_batches(paths, 1)
    assert batches == [[(["old"], "0")]] * 10 + [[(["new"], "1")]] * (STEPS - 10)
    assert list(effective_meshes(paths)) == [("a", 10), ("b", STEPS)]


def test_bits_are_compared():
    assert same_bits(np.float32(np.nan)[None], np.float32(np.nan)[None])
    assert not same_bits(np.zeros(1, np.float32), -np.zeros(1, np.float32))
    assert not same_bits(np.zeros(1, np.float32), np.zeros(1, np.int32))
    assert not same_bits(np.zeros(2), np.zeros((2, 1))) and not same_bits(np.zeros(2), None)
