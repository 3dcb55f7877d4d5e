"""The same training by one process with eight devices, two with four and four with two; and one that is killed."""

import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest

from imagen_jax.storage.paths import to_path
from imagen_jax.train import train
from tests.compiled_programs import compiling_once
from tests.end_to_end.smoke_runs import draw_own_images, losses

pytestmark = pytest.mark.slow(seconds=50)

CHECKOUT = Path(__file__).parents[2]
STEPS, SAVED, STALLED = 20, 16, 18
FEWER_STEPS = 8
LAST = {0: f"process 0: {STALLED - 1}, process 1: {STALLED - 2}", 1: f"process 1: {STALLED - 2}"}
"""The last steps that each process has seen then. The batch of a step is fetched during the one before, which so can't
be seen to end."""
HEARTBEAT_SECONDS = 12
ENDS_WITHIN = 60
"""Seconds: the heartbeat and a tenth, what a busy machine takes to see it, and less than the heartbeat of no flag."""

CONFIG = """
from ml_collections import ConfigDict
from configs import quickstart
from tests.small_networks import ONE_LEVEL

def get_config():
    config = quickstart.get_config("base,smoke")
    config.network.update(ONE_LEVEL)
    adam = {{"name": "adam", "learning_rate": 1e-3, "warm_up_steps": 1, "decay_steps": 40, "clip_norm": 1.0}}
    config.optimizer = ConfigDict(adam)
    config.data.update({{"source": "folder", "data_dir": "{data_dir}"}})
    config.data.options = ConfigDict({{"folder": "{images}"}})
    config.training.update({{"steps": {steps}, "checkpoint_every": {saved}, "preview_every": 1000}})
    config.preview.prompts = ("square",)
    config.sampling.steps = 1
    return config
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory, fake_buckets):
    """A config file, its data, a bucket, and how to run it."""
    folder = tmp_path_factory.mktemp("distributed")
    config = folder / "config.py"
    images = draw_own_images(tmp_path_factory.mktemp("own_images"))
    config.write_text(
        CONFIG.format(images=images, data_dir=folder / "data", steps=STEPS, saved=SAVED), encoding="utf-8"
    )
    environment = {
        **os.environ,
        "PYTHONPATH": str(CHECKOUT),
        "IMAGEN_JAX_NO_CACHE": "1",
        "IMAGEN_JAX_CACHE": str(folder / "cache"),
        "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    fake_buckets.buckets["pod"] = {}
    yield SimpleNamespace(
        folder=folder, bucket=to_path("gs:" + "//pod"), objects=fake_buckets.buckets["pod"], config=config,
        environment=environment,
    )  # fmt: skip
    assert fake_buckets.unexpected == [], "a request went beyond the fake"


def locate(place, workdir):
    """Where a run of a name is; what is a path already stays it."""
    return place.folder / workdir if isinstance(workdir, str) else workdir


def start(place, processes, devices, workdirs, *flags):
    """Starts training as several processes; returns the launcher, whose output goes to a file."""
    output = place.folder / f"{workdirs[0]}.{time.monotonic_ns()}.txt"
    script = [sys.executable, str(Path(__file__).with_name("several_runs.py")), f"--config={place.config}"]
    named = ",".join(str(locate(place, workdir)) for workdir in workdirs)
    launcher = [sys.executable, str(CHECKOUT / "launch" / "simulate_hosts.py"), "-n", str(processes)]
    launcher += ["--devices_per_host", str(devices), "--"]
    with output.open("w") as stream:
        launched = subprocess.Popen(
            [*launcher, *script, f"--workdir={named}", *flags], stdout=stream, stderr=stream, env=place.environment
        )
    return SimpleNamespace(process=launched, read=lambda: output.read_text())


def finish(launched, status=0):
    assert launched.process.wait(timeout=900) == status, launched.read()
    return launched.read()


def wait_until(launched, seen):
    while not seen(launched.read()):
        assert launched.process.poll() is None, launched.read()
        time.sleep(0.1)


def cut_copy(place, workdir, name):
    """A copy of a run, as it was after its first checkpoint."""
    copy = place.folder / name
    shutil.copytree(place.folder / workdir, copy)
    for checkpoint in (copy / "checkpoints").iterdir():
        if checkpoint.name != str(SAVED):
            shutil.rmtree(checkpoint)
    return name


def test_two_processes_train_as_one(place, monkeypatch):
    """Process 0 alone prints and writes."""
    monkeypatch.setattr("imagen_jax.train.make_training", compiling_once({}))
    config = runpy.run_path(str(place.config))["get_config"]()
    config.training.update({"steps": FEWER_STEPS, "preview_every": 0})
    config.preview.prompts = ()
    train(config, place.folder / "one")
    printed = finish(start(place, 2, 4, ["two"], "--nopreview", f"--config.training.steps={FEWER_STEPS}"))
    assert len(losses(place.folder / "two")) == FEWER_STEPS
    assert losses(place.folder / "two") == pytest.approx(losses(place.folder / "one"), rel=1e-5)
    assert re.findall(r"^\[1\] .*(?:raining|rawing|error).*", printed, flags=re.MULTILINE) == []


@pytest.fixture(scope="module")
def killed(place):
    """Two processes of four devices; the second never gets its batch of a step, and is killed once that is reported."""
    launched = start(
        place, 2, 4, ["2x4"], f"--stall=1,{STALLED}", f"--heartbeat_seconds={HEARTBEAT_SECONDS}", "--hang_seconds=1.5"
    )
    reports = [rf"\[{index}\] watchdog.*{last}\." for index, last in LAST.items()]
    wait_until(launched, lambda printed: all(re.search(report, printed) for report in reports))
    victim = int(re.search(r"^\[1\] started as process (\d+)", launched.read(), flags=re.MULTILINE)[1])
    os.kill(victim, signal.SIGKILL)
    began = time.monotonic()
    printed = finish(launched, status=128 + signal.SIGKILL)
    return SimpleNamespace(printed=printed, seconds=time.monotonic() - began)


@pytest.mark.thorough
def test_a_step_that_hangs_is_reported_with_each_hosts_last(killed):
    """Process 0 waits in an operation for process 1, which waits for its batch."""
    for index in (0, 1):
        steps = re.findall(rf"\[{index}\] watchdog: .* \d+ s .*\bstep (\d+)\. Last", killed.printed)
        assert int(steps[-1]) == STALLED - 1 - index, killed.printed
    assert re.search(r"\[1\] .*several_runs\.py.*__next__", killed.printed), "the stack of the one that waits for data"
    assert re.search(r"\[0\] .*loop\.py.*run_loop", killed.printed)


@pytest.mark.thorough
def test_a_killed_process_ends_the_others_in_time_and_they_name_it(killed):
    assert killed.seconds < ENDS_WITHIN, killed.printed
    (sentence,) = re.findall(r"\[0\] error: (.*)", killed.printed)
    assert re.search(rf"process 1 .*\b{HEARTBEAT_SECONDS} s\b.*\bstep {STALLED - 2}\b", sentence)
    assert "[0] ended with status 3" in killed.printed and "Traceback (most recent call last)" not in killed.printed


@pytest.mark.thorough
def test_all_layouts_train_alike_and_continue_each_others_checkpoints(place, killed, monkeypatch):
    """The run of 2 × 4 is the one that was killed, so what it continues to is checked by the way."""
    monkeypatch.setattr("imagen_jax.train.make_training", compiling_once({}))
    config = runpy.run_path(str(place.config))["get_config"]()
    assert jax.device_count() == 8
    train(config, place.folder / "1x8")
    expected = losses(place.folder / "1x8")
    assert len(expected) == STEPS

    in_bucket = place.bucket / "4x2_then_2x4"
    four = ["4x2", in_bucket, cut_copy(place, "1x8", "1x8_on_4x2"), cut_copy(place, "2x4", "2x4_on_4x2")]
    finish(start(place, 4, 2, four, "--nopreview"))
    written = {name.split("/")[2] for name in place.objects if "/checkpoints/" in name}
    assert written == {str(SAVED), str(STEPS)}
    for name in [name for name in place.objects if f"/checkpoints/{STEPS}/" in name]:
        del place.objects[name]
    two = ["2x4", in_bucket, cut_copy(place, "1x8", "1x8_on_2x4"), cut_copy(place, "4x2", "4x2_on_2x4")]
    printed = finish(start(place, 2, 4, two))
    for resumed in (in_bucket, place.folder / "2x4"):
        assert re.search(rf"\[0\] {re.escape(str(resumed))} .*\bstep {SAVED}\b", printed)
    # Gloo's lines, which it writes in pieces, may be among them.
    assert re.findall(r"^\[1\] .*(?:ontinues|raining|rawing|error).*", printed, flags=re.MULTILINE) == [], (
        "only process 0 prints"
    )

    one = [cut_copy(place, "2x4", "2x4_on_1x8"), cut_copy(place, "4x2", "4x2_on_1x8")]
    for workdir in one:
        train(config, place.folder / workdir)

    for workdir in [*four, *two, *one]:
        assert losses(locate(place, workdir)) == pytest.approx(expected, rel=1e-5), workdir
    previews = [place.folder / workdir / "previews" / f"{STEPS:07d}.png" for workdir in ("1x8", "2x4")]
    assert len({preview.read_bytes() for preview in previews}) == 1, "process 0 writes what all have sampled"
