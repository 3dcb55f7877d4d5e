"""A folder has one writer: two runs in one workdir, a folder that is deleted, and each command that writes one."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from configs import own_images as own_images_config
from imagen_jax.data.preparation import preparation
from imagen_jax.data.preparation.preparation import Preparation, prepare
from imagen_jax.encoders.encoder import load_text_encoder
from imagen_jax.errors import ForNowError, UserError
from imagen_jax.pretrained import find_stages
from imagen_jax.storage.folder_locks import locked
from imagen_jax.train import train
from imagen_jax.training.monitoring.metrics import MetricsWriter
from tests.compiled_programs import compiling_once
from tests.data.part_sources import parts
from tests.forked_programs import run_forked
from tests.small_networks import ONE_LEVEL

pytestmark = pytest.mark.slow

CHECKOUT = Path(__file__).parents[2]
STEPS = 5
SMALL = {
    "training.log_every": 1,
    "training.checkpoint_every": 1000,
    "training.preview_every": 1000,
    "optimizer.decay_steps": 10_000,
    **{f"network.{key}": value for key, value in ONE_LEVEL.items()},
}


@pytest.fixture
def config(own_images, data_dir):
    config = own_images_config.get_config("base,smoke")
    settings = {"training.steps": STEPS, "data.options.folder": str(own_images), "data.data_dir": str(data_dir)}
    config.update_from_flattened_dict(SMALL | settings)
    return config


@pytest.fixture(scope="module")
def compiled_once():
    """A step that all runs of this file share."""
    return compiling_once({})


def run(module, *flags, cache):
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT), "IMAGEN_JAX_CACHE": str(cache), "XLA_FLAGS": ""}
    return subprocess.Popen(
        [sys.executable, "-m", f"imagen_jax.{module}", *flags],
        cwd=CHECKOUT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def lines_of(workdir):
    path = workdir / "metrics.jsonl"
    return [json.loads(line)["step"] for line in path.read_text().splitlines()] if path.exists() else []


@pytest.mark.thorough
def test_a_second_training_is_refused_and_a_killed_one_makes_way(config, tmp_path, own_images, data_dir):
    workdir, steps = tmp_path / "run", 3000
    settings = {**SMALL, "training.steps": steps, "data.options.folder": own_images, "data.data_dir": data_dir}
    flags = ["--config=configs/own_images.py:base,smoke", f"--workdir={workdir}"]
    settings["training.checkpoint_every"] = 9
    flags += [f"--config.{name}={value}" for name, value in settings.items()]
    first = run("train", *flags, cache=tmp_path)
    deadline = time.monotonic() + 600
    while len(lines_of(workdir)) < 20:
        assert first.poll() is None and time.monotonic() < deadline, first.stderr.read()
        time.sleep(0.05)
    second = run("train", *flags, cache=tmp_path)
    printed = second.communicate(timeout=600)[1]
    assert second.returncode == 74, printed
    assert re.search(rf"error: {workdir} .*\b{first.pid}\b", printed) and "Traceback" not in printed
    assert first.poll() is None, first.stderr.read()
    first.send_signal(signal.SIGKILL)
    first.communicate()
    reached = max(lines_of(workdir))
    third = run("train", *flags, f"--config.training.steps={reached + 5}", cache=tmp_path)
    printed = third.communicate(timeout=600)[1]
    assert third.returncode == 0, printed
    assert lines_of(workdir) == list(range(1, reached + 6))
    assert not (workdir / ".lock").exists()


@pytest.mark.parametrize("way", ["deleted", "moved", "replaced"])
@pytest.mark.thorough
@pytest.mark.parametrize("at", [3, STEPS])
def test_a_workdir_that_is_deleted_under_a_training_ends_it_soon(config, tmp_path, compiled_once, monkeypatch, way, at):
    monkeypatch.setattr("imagen_jax.train.make_training", compiled_once)
    workdir, seen = tmp_path / "run", []
    write = MetricsWriter.write

    def write_and_go(self, step, metrics):
        seen.append(step)
        write(self, step, metrics)
        if step == at - 1:
            workdir.rename(tmp_path / "moved")
            if way != "moved":
                shutil.rmtree(tmp_path / "moved")
            if way == "replaced":
                workdir.mkdir()

    monkeypatch.setattr(MetricsWriter, "write", write_and_go)
    with pytest.raises(UserError, match=rf"{workdir} "):
        train(config, workdir)
    assert seen[-1] == at - 1, "nothing is written after it"
    assert not (workdir / "metrics.jsonl").exists() and not (workdir / "checkpoints" / str(STEPS)).exists()


@pytest.mark.thorough
def test_the_lock_is_nowhere_when_the_run_is_done(config, tmp_path, compiled_once, monkeypatch):
    """So that copies, lists and comparisons of workdirs are as they were."""
    monkeypatch.setattr("imagen_jax.train.make_training", compiled_once)
    train(config, tmp_path / "run")
    assert [path.name for path in (tmp_path / "run").rglob(".*")] == []
    with locked(tmp_path / "run", "--workdir"), pytest.raises(ForNowError):
        train(config, tmp_path / "run")


def test_a_data_set_that_is_deleted_while_it_is_prepared_is_an_error(tmp_path, monkeypatch):
    convert_part = preparation.convert_part

    def convert_and_go(part, folder, conversion):
        report = convert_part(part, folder, conversion)
        shutil.rmtree(tmp_path / "data", ignore_errors=True)
        return report

    monkeypatch.setattr(preparation, "convert_part", convert_and_go)
    with pytest.raises(UserError, match=str(tmp_path / "data")):
        prepare(Preparation("listed", {}, "Ours, CC0", parts(100)), tmp_path / "data", workers=0)


BASE = find_stages(["openmoji"])[0]
QUICKSTART = "--config=configs/quickstart.py:base,smoke"


@pytest.mark.parametrize(
    ("module", "flags", "folder"),
    [
        ("train", (QUICKSTART, "--workdir={held}"), "{held}"),
        pytest.param(
            "train_classifier",
            ("--config=configs/openmoji_classifier.py:,smoke", "--workdir={held}"),
            "{held}",
            marks=pytest.mark.thorough,
        ),
        pytest.param("evaluate", ("--out={held}",), "{held}", marks=pytest.mark.thorough),
        pytest.param(
            "prepare_data",
            ("--source=folder", "--option=folder={images}", "--out={held}"),
            "{held}",
            marks=pytest.mark.thorough,
        ),
        pytest.param(
            "embed_captions", ("--data={data}", "--encoder=minilm"), "{data}/embeddings", marks=pytest.mark.thorough
        ),
        pytest.param("export_weights", (f"--workdir={BASE}", "--out={held}"), "{held}", marks=pytest.mark.thorough),
        pytest.param(
            "import_weights",
            ("--format=imagen_jax", f"--source={BASE}", "--out={held}"),
            "{held}",
            marks=pytest.mark.thorough,
        ),
    ],
)
def test_every_command_that_writes_a_folder_refuses_one_in_use(
    module, flags, folder, tmp_path, own_images, monkeypatch
):
    names = {"held": tmp_path / "held", "images": own_images, "data": tmp_path / "data"}
    held = Path(folder.format(**names))
    held.mkdir(parents=True)
    if module == "embed_captions":
        prepare(Preparation("listed", {}, "Ours, CC0", parts(100)), names["data"], workers=0)
        held = held / load_text_encoder("minilm").name
        held.mkdir()
    monkeypatch.setenv("IMAGEN_JAX_CACHE", str(tmp_path))
    monkeypatch.chdir(CHECKOUT)
    with locked(held, "--out"):
        before = sorted(held.rglob("*"))
        refused = run_forked(f"imagen_jax.{module}", *(flag.format(**names) for flag in flags))
        printed = refused.stderr
        assert refused.returncode == 74, printed
        assert re.search(rf"{held} .*\b{os.getpid()}\b", printed) and "Traceback" not in printed
        assert {path.name for path in held.rglob("*")} - {path.name for path in before} <= {"config.json"}
