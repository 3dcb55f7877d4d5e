"""Two hosts sample into a folder and are killed midway: continued by any of them, it ends byte for byte the same."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.small_cascades import write_cascade

pytestmark = pytest.mark.thorough

CHECKOUT = Path(__file__).parents[2]
PROMPTS = ["red apple", "panda", "日本語", "🍕 pizza"]
EACH = 6


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """Of programs that find the package and share compiled programs."""
    cache = tmp_path_factory.mktemp("cache")
    return {
        **os.environ,
        "PYTHONPATH": str(CHECKOUT),
        "IMAGEN_JAX_CACHE": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "XLA_FLAGS": "",
    }


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
    return ",".join(map(str, write_cascade(tmp_path_factory.mktemp("cascade"))))


def start(stages, environment, out, hosts):
    """Starts the sampling; its output goes to a file beside the folder."""
    launcher = [sys.executable, "launch/simulate_hosts.py", "-n", str(hosts), "--"] if hosts > 1 else []
    command = ["imagen_jax.sample"] if hosts > 1 else [sys.executable, "-m", "imagen_jax.sample"]
    prompts = [f"--prompt={prompt}" for prompt in PROMPTS]
    flags = [f"--samples_per_prompt={EACH}", "--batch_size=2", f"--stages={stages}", f"--out={out}", "--nogrid"]
    with out.with_suffix(".txt").open("w") as log:
        return subprocess.Popen(
            [*launcher, *command, *prompts, *flags], cwd=CHECKOUT, env=environment, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip


def finish(process, out):
    assert process.wait(timeout=900) == 0, out.with_suffix(".txt").read_text()
    return out.with_suffix(".txt").read_text()


def contents(out):
    return {path.name: path.read_bytes() for path in out.iterdir()}


def images_in(out):
    return [path for path in out.glob("*.png") if not path.name.startswith(".")]


def test_two_hosts_that_are_killed_and_continue_sample_what_one_samples(stages, environment, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    finish(start(stages, environment, whole, hosts=1), whole)
    expected = contents(whole)
    assert len(images_in(whole)) == len(PROMPTS) * EACH

    killed = start(stages, environment, cut, hosts=2)
    deadline = time.monotonic() + 900
    while not images_in(cut):
        assert killed.poll() is None and time.monotonic() < deadline, cut.with_suffix(".txt").read_text()
        time.sleep(0.005)
    words = cut.with_suffix(".txt").read_text()
    hosts = [int(line.rpartition(" ")[2]) for line in words.splitlines() if "started as process" in line]
    assert len(hosts) == 2
    for process in (killed.pid, *hosts):
        os.killpg(process, signal.SIGKILL)
    killed.wait()
    kept = {path.name: path.stat().st_mtime_ns for path in images_in(cut)}
    assert 0 < len(kept) < len(expected) - 1, "killed midway"

    printed = finish(start(stages, environment, cut, hosts=2), cut)
    assert str(cut) in printed
    assert contents(cut) == expected
    # An image that was there may be sampled again with the others of its batch, and stays as it was.
    assert {name: (cut / name).stat().st_mtime_ns for name in kept} == kept
