"""`tpu_worker.sh` on a worker that is this machine: a real supervisor over a training that is a few lines of shell."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the workers of a TPU pod run Linux")

LAUNCH = Path(__file__).parent.parent.parent / "launch"


class Worker:
    """A checkout on a worker, with a `python` that does what the test says."""

    def __init__(self, folder: Path):
        self.checkout = folder / "imagen-jax"
        shutil.copytree(LAUNCH, self.checkout / "launch", ignore=shutil.ignore_patterns("reports"))
        self.python = self.checkout / ".venv" / "bin" / "python"
        self.python.parent.mkdir(parents=True)
        self.log = self.checkout / "runs" / "launch" / "train.log"

    def will_train(self, lines: str) -> None:
        self.python.write_text(f"#!/bin/bash\n{lines}\n")
        self.python.chmod(0o755)

    def call(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", str(self.checkout / "launch" / "tpu_worker.sh"), *arguments],
            env={"PATH": os.environ["PATH"], **environment},
            capture_output=True,
            text=True,
            timeout=60,
        )

    def wait_for(self, text: str) -> None:
        for _ in range(400):
            if self.log.exists() and text in self.log.read_text():
                return
            time.sleep(0.05)
        raise TimeoutError(f"no {text!r} in {self.log.read_text() if self.log.exists() else 'the log'}")

    def supervisor(self) -> int:
        return int((self.log.parent / "supervisor.pid").read_text())


@pytest.fixture
def worker(tmp_path):
    worker = Worker(tmp_path)
    worker.will_train("trap 'echo saved; exit 75' TERM; echo began; while :; do sleep 0.05; done")
    yield worker
    worker.call("stop", STOP_SECONDS="5")


def test_a_training_outlives_its_call_and_stops_when_told(worker):
    started = worker.call("start", "--config=c.py:x", "--config.a=(1, 2)")
    assert started.returncode == 0 and started.stdout.startswith("imagen-jax: started on ")
    worker.wait_for("began")
    assert worker.call("status").stdout.startswith("imagen-jax: running on ")
    # Not of the session of whoever called, whose end would end it.
    assert os.getsid(worker.supervisor()) == worker.supervisor()
    assert worker.call("stop").stdout.startswith("imagen-jax: stopped on ")
    assert "saved" in worker.log.read_text()
    assert worker.call("status").stdout.startswith("imagen-jax: idle on ")


def test_the_training_gets_its_arguments_and_the_environment(worker):
    worker.will_train('printf "<%s>" "$@"; echo; env')
    worker.call("start", "--config=c.py:x", "--config.a=(1, 2)", LIBTPU_INIT_ARGS="--mine=1")
    worker.wait_for("Done")
    log = worker.log.read_text()
    assert "<-m><imagen_jax.train><--distributed><--config=c.py:x><--config.a=(1, 2)>" in log
    assert "JAX_PLATFORMS=tpu,cpu" in log
    assert "--xla_enable_async_all_gather=true" in log and "--mine=1\n" in log


def test_how_a_training_ended_is_reported(worker):
    worker.will_train("exit 2")
    worker.call("start")
    worker.wait_for("ended with status 2")
    assert worker.call("status").stdout.startswith("imagen-jax: ended 2 on ")


def test_a_training_that_crashed_is_started_again(worker):
    worker.will_train('[ -e crashed ] && echo again && exit 0; touch crashed; echo "crash"; exit 1')
    (worker.checkout / "launch" / "supervise.sh").write_text(
        (LAUNCH / "supervise.sh").read_text().replace("first_wait=5", "first_wait=0")
    )
    worker.call("start")
    worker.wait_for("Done")
    assert worker.call("status").stdout.startswith("imagen-jax: ended 0 on ")


def test_two_trainings_at_once_are_refused(worker):
    worker.call("start")
    worker.wait_for("began")
    for command in ("start", "install"):
        refused = worker.call(command)
        assert refused.returncode == 2
        assert "error: " in refused.stderr


def test_a_reboot_is_noticed(worker):
    worker.call("start")
    worker.wait_for("began")
    # As when the power goes: no process is notified.
    training = subprocess.run(["pgrep", "-P", str(worker.supervisor())], capture_output=True, text=True).stdout
    for process in [worker.supervisor(), *map(int, training.split())]:
        os.kill(process, signal.SIGKILL)
    time.sleep(0.1)
    assert worker.call("status").stdout.startswith("imagen-jax: lost on ")


def test_a_worker_without_an_installation_is_an_error(worker):
    worker.python.unlink()
    refused = worker.call("start")
    assert refused.returncode == 2
    assert "error: " in refused.stderr


def test_an_old_python_is_replaced_by_one_of_uv(worker, tools, tmp_path):
    # The machine has only a Python of version 3.10, and its pip and uv do as they are told.
    programs = tmp_path / "programs"
    programs.mkdir()
    old = programs / "python3"
    old.write_text(
        '#!/bin/sh\ncase "$*" in\n'
        '"-m pip install"* | "-m uv python install"*) echo "$*" >>"$CALLS" ;;\n'
        '"-m uv python find"*) echo "$NEWER" ;;\n*) exit 1 ;;\nesac\n'
    )
    old.chmod(0o755)
    newer = tmp_path / "newer"
    newer.write_text('#!/bin/sh\ncase "$*" in\n*venv*.venv*) echo "makes $*" >>"$CALLS"; exit 1 ;;\nesac\nexit 0\n')
    newer.chmod(0o755)
    for file in ("setup.py", "requirements.lock"):
        shutil.copy(LAUNCH.parent / file, worker.checkout)
    shutil.rmtree(worker.checkout / ".venv")
    calls = tmp_path / "calls"
    worker.call("install", PATH=f"{programs}:{tools}", CALLS=str(calls), NEWER=str(newer))
    installed, fetched, made = calls.read_text().splitlines()
    assert installed.startswith("-m pip install") and "uv==" in installed
    assert fetched == "-m uv python install --quiet 3.13"
    assert made == "makes -m venv .venv"
