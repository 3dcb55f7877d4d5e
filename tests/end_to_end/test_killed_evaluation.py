"""An evaluation killed while it samples, while it extracts, and again: continued, it reports the same digits."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.evaluation.protocols.coco_tree import write_coco
from tests.small_cascades import write_cascade

pytestmark = pytest.mark.thorough

CHECKOUT = Path(__file__).parents[2]
TIMES = ("drawing", "machine")
"""What two runs of a report may differ in."""


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """Of programs that find the package and share compiled programs."""
    return {
        **os.environ,
        "PYTHONPATH": str(CHECKOUT),
        "IMAGEN_JAX_CACHE": str(tmp_path_factory.mktemp("cache")),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "XLA_FLAGS": "",
    }


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("killed_evaluation")
    return ",".join(map(str, write_cascade(folder / "cascade"))), write_coco(folder / "coco", 60)


def start(folders, environment, out, hosts=1):
    stages, coco = folders
    launcher = [sys.executable, "launch/simulate_hosts.py", "-n", str(hosts), "--"] if hosts > 1 else []
    command = ["imagen_jax.evaluate"] if hosts > 1 else [sys.executable, "-m", "imagen_jax.evaluate"]
    flags = [f"--stages={stages}", f"--out={out}", f"--cache={out}_reference", "--protocol=imagen", "--batch_size=4",
             f"--data_dir={coco}", "--samples=32", "--features=efficientnet_lite0,pixels"]  # fmt: skip
    with Path(f"{out}.txt").open("w") as log:
        return subprocess.Popen(
            [*launcher, *command, *flags], cwd=CHECKOUT, env=environment, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip


def finish(process, out):
    assert process.wait(timeout=900) == 0, Path(f"{out}.txt").read_text()
    report = json.loads((out / "report.json").read_text())
    return {key: value for key, value in report.items() if key not in TIMES}


def kill_when(process, holds):
    began = time.monotonic()
    while not holds():
        assert process.poll() is None and time.monotonic() - began < 240
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def test_killed_at_three_places_and_continued_by_two_hosts_it_reports_the_same(folders, environment, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    expected = finish(start(folders, environment, whole), whole)
    assert expected["numbers"]["efficientnet_lite0"]["Fréchet distance"]["pictures"] == 32

    def count_images():
        return len(list((cut / "pictures").glob("[!.]*.png")))

    kill_when(start(folders, environment, cut), lambda: count_images() >= 5)
    assert count_images() < 32
    kill_when(start(folders, environment, cut), lambda: (cut / "features").exists())
    reference = Path(f"{cut}_reference")
    kill_when(start(folders, environment, cut), lambda: any(reference.glob("efficientnet_lite0-*")))
    assert not (cut / "report.json").exists()
    found = finish(start(folders, environment, cut, hosts=2), cut)
    differing = [key for key in expected if found.get(key) != expected[key]]
    assert not differing, [(found[key], expected[key]) for key in differing]
