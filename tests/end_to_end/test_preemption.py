"""A training that is asked to exit saves a checkpoint, and the same command continues.

After SIGTERM it exits with status 75, and after Ctrl-C with 130, so that no supervisor starts it again.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from imagen_jax.runtime.exit_status import ExitStatus
from tests.small_networks import ONE_LEVEL

pytestmark = pytest.mark.slow(seconds=55)

CHECKOUT = Path(__file__).parents[2]
STEPS = 150
SETTINGS = {
    "training.steps": STEPS,
    "training.checkpoint_every": 1000,
    "training.preview_every": 0,
    "training.log_every": 1,
    "optimizer.decay_steps": 10_000,
    **{f"network.{key}": value for key, value in ONE_LEVEL.items()},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory, own_images, data_dir):
    """Starts ``train``, on a data set and with compiled programs that all starts share."""
    folder = tmp_path_factory.mktemp("preempted")
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT), "IMAGEN_JAX_CACHE": str(folder), "XLA_FLAGS": ""}

    def start(workdir, *more):
        changes = [f"--config.{name}={value}" for name, value in settings(own_images, data_dir).items()]
        command = [sys.executable, "-m", "imagen_jax.train", "--config=configs/own_images.py:base,smoke"]
        path = folder / f"log_{time.monotonic_ns()}"
        command += [f"--workdir={workdir}", *changes, *more]
        with path.open("w") as log:
            process = subprocess.Popen(
                command, cwd=CHECKOUT, env=environment, stdout=log, stderr=log, start_new_session=True
            )
        process.log = path
        return process

    return start


def settings(own_images, data_dir):
    return {**SETTINGS, "data.options.folder": str(own_images), "data.data_dir": str(data_dir)}


@pytest.fixture(scope="module")
def whole(run, tmp_path_factory, own_images, data_dir):
    """The losses of an uninterrupted training."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    ended = run(workdir)
    assert ended.wait(timeout=900) == 0, ended.log.read_text()
    return losses_of(workdir)


def losses_of(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss"]) for line in lines]


def wait_for_the_first_step(process):
    """Waits until the progress bar has the first step; those that follow it shows every few seconds."""
    deadline = time.monotonic() + 900
    while f"1/{STEPS}" not in process.log.read_text():
        assert process.poll() is None and time.monotonic() < deadline, process.log.read_text()
        time.sleep(0.02)


BOTH_WAYS = pytest.mark.parametrize(
    ("number", "status"),
    [
        pytest.param(signal.SIGTERM, ExitStatus.PREEMPTED, id="SIGTERM"),
        pytest.param(signal.SIGINT, ExitStatus.INTERRUPTED, id="Ctrl-C"),
    ],
)


def steps_kept(workdir):
    return [int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name.isdecimal()]


@pytest.mark.thorough
def test_sigterm_leaves_a_checkpoint_and_the_same_command_continues(run, tmp_path):
    kept = stop_and_continue(run, tmp_path / "run", signal.SIGTERM, ExitStatus.PREEMPTED)
    assert [step for step, _ in losses_of(tmp_path / "run")] == [*range(1, STEPS + 1)] and 1 <= kept < STEPS


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, ExitStatus.PREEMPTED), (signal.SIGINT, ExitStatus.INTERRUPTED)]
)
def test_the_losses_are_those_of_a_run_that_nobody_stopped(run, whole, tmp_path, number, status):
    """To the last bit for dozens of steps after the signal, so the state is the same."""
    stop_and_continue(run, tmp_path / "run", number, status)
    assert losses_of(tmp_path / "run") == whole


def stop_and_continue(run, workdir, number, status):
    """Stops a training by a signal, continues it to its end, and returns the step between."""
    left = run(workdir)
    wait_for_the_first_step(left)
    left.send_signal(number)
    assert left.wait(timeout=900) == status, left.log.read_text()
    (kept,) = steps_kept(workdir)
    assert f" step {kept} " in left.log.read_text()
    assert "Traceback" not in left.log.read_text()

    again = run(workdir)
    assert again.wait(timeout=900) == 0, again.log.read_text()
    assert f" step {kept} of " in again.log.read_text()
    return kept


@pytest.mark.thorough
@BOTH_WAYS
def test_data_workers_that_get_the_signal_too_make_the_batches_that_are_needed(run, whole, tmp_path, number, status):
    left = run(tmp_path / "run", "--config.data.cache=False", "--config.data.num_workers=2")
    wait_for_the_first_step(left)
    os.killpg(left.pid, number)
    assert left.wait(timeout=900) == status, left.log.read_text()
    assert "Traceback" not in left.log.read_text()
    (kept,) = steps_kept(tmp_path / "run")
    assert losses_of(tmp_path / "run") == whole[:kept]


@pytest.mark.thorough
@BOTH_WAYS
def test_one_of_two_hosts_gets_the_signal_and_both_exit_after_the_same_step(run, whole, tmp_path, number, status):
    def start_both():
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        together = (f"--coordinator={address}", "--process_count=2")
        return [run(tmp_path / "run", *together, f"--process_index={index}") for index in range(2)]

    both = start_both()
    wait_for_the_first_step(both[0])
    while len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) < 3:
        # The other one may still be in its first step.
        time.sleep(0.02)
    both[1].send_signal(number)
    logs = [process.log for process in both]
    assert [process.wait(timeout=900) for process in both] == [status, status], [one.read_text() for one in logs]
    (kept,) = steps_kept(tmp_path / "run")
    assert 1 < kept < STEPS
    assert all(f" step {kept} " in one.read_text() for one in logs)

    both = start_both()
    assert [process.wait(timeout=900) for process in both] == [0, 0], both[0].log.read_text()
    assert [step for step, _ in losses_of(tmp_path / "run")] == [step for step, _ in whole]


@pytest.mark.parametrize(
    ("number", "status"),
    [
        (signal.SIGTERM, -signal.SIGTERM),
        pytest.param(signal.SIGINT, ExitStatus.INTERRUPTED, marks=pytest.mark.thorough),
    ],
)
def test_before_the_first_step_it_ends_as_any_program_does(run, tmp_path, number, status):
    early = run(tmp_path / "run")
    deadline = time.monotonic() + 900
    while not (tmp_path / "run" / "config.json").exists():
        assert early.poll() is None and time.monotonic() < deadline, early.log.read_text()
        time.sleep(0.01)
    early.send_signal(number)
    assert early.wait(timeout=30) == status
    assert "Traceback" not in early.log.read_text()
    assert not (tmp_path / "run" / "checkpoints").exists()
