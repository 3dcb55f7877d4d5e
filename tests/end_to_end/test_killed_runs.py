"""Processes that are killed in the midst (SIGKILL: no time to tidy up), and what the same command makes of it."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from configs import own_images as own_images_config
from imagen_jax.data.preparation.conversion import Conversion
from imagen_jax.data.preparation.preparation import Preparation, prepare
from imagen_jax.data.sources.synthetic import synthetic_parts
from imagen_jax.train import train_to_end as train
from tests.end_to_end.smoke_runs import plain
from tests.small_networks import ONE_LEVEL

pytestmark = pytest.mark.thorough

CHECKOUT = Path(__file__).parents[2]
STEPS, SAVED = 20, 5
OF_TIME = re.compile("per_second|seconds|overhead|input_wait|goodput|memory")

EMBED_AND_DIE = """
import os, signal, sys
from imagen_jax.encoders import embedding_store

embedding_store.BUCKET_CAPTIONS = 10
function_name, bucket = os.environ["KILLED_AT"], int(os.environ["KILLED_IN"])
function, calls = getattr(embedding_store, function_name), 0

def counted(*arguments):
    global calls
    print(function_name, flush=True)
    if calls == bucket:
        os.kill(os.getpid(), signal.SIGKILL)
    calls += 1
    return function(*arguments)

setattr(embedding_store, function_name, counted)
from imagen_jax.runtime.main import run_main
from imagen_jax.commands.embed_captions import main
run_main(main)
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """Of programs that find the package and share compiled programs."""
    return {
        **os.environ,
        "PYTHONPATH": str(CHECKOUT),
        "IMAGEN_JAX_CACHE": str(tmp_path_factory.mktemp("cache")),
        "XLA_FLAGS": "",
    }


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A data set without embeddings."""
    folder = tmp_path_factory.mktemp("killed") / "data"
    parts = synthetic_parts(count=60, resolution=32)
    prepare(Preparation("synthetic", {}, "Ours", parts, Conversion(), duplicates="keys"), folder, 0)
    return folder


def embed(data, environment, function_name="build_bucket", bucket=-1):
    """Embeds with small buckets; dies when ``function_name`` is called for that bucket, counted from 0."""
    command = [sys.executable, "-c", EMBED_AND_DIE, f"--data={data}", "--encoder=minilm"]
    changed = {"KILLED_AT": function_name, "KILLED_IN": str(bucket)}
    return subprocess.run(command, cwd=CHECKOUT, env={**environment, **changed}, capture_output=True, text=True)


@pytest.fixture(scope="module")
def embedded(data, environment, tmp_path_factory):
    """The data set with embeddings that an uninterrupted run made."""
    folder = tmp_path_factory.mktemp("whole") / "data"
    shutil.copytree(data, folder)
    ended = embed(folder, environment)
    assert ended.returncode == 0, ended.stderr
    return folder


def embedding_files(data):
    """Those of the stores, without what was being written when its process died."""
    files = (file for file in (data / "embeddings").rglob("*") if file.is_file())
    return {str(file.relative_to(data)): file for file in files if not file.name.startswith(".")}


@pytest.mark.parametrize("function_name", ["encode_all", "description_of"])
def test_embedding_continues_after_a_kill(data, embedded, environment, tmp_path, function_name):
    """Killed while the third bucket is encoded, and between a bucket and what describes it."""
    cut = tmp_path / "data"
    shutil.copytree(data, cut)
    ended = embed(cut, environment, function_name, bucket=2)
    assert ended.returncode == -signal.SIGKILL and ended.stdout.count(function_name) == 3, ended.stderr
    done = {name: file.stat() for name, file in embedding_files(cut).items() if file.suffix == ".json"}
    whole = embedding_files(embedded)
    buckets = sum(name.endswith(".safetensors") for name in whole)
    assert buckets >= 5 and 0 < len(done) < buckets and not any(name.endswith("store.json") for name in done)

    ended = embed(cut, environment, "encode_all")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("encode_all") == buckets - len(done), "what is done is not done again"
    after = embedding_files(cut)
    assert {name: file.read_bytes() for name, file in after.items()} == {
        name: file.read_bytes() for name, file in whole.items()
    }
    for name, before in done.items():
        bucket = name.replace(".json", ".safetensors")
        assert os.path.samestat(before, after[name].stat()) and after[name].stat().st_mtime_ns == before.st_mtime_ns
        assert after[bucket].stat().st_mtime_ns <= before.st_mtime_ns


def settings(data):
    """One small block is soon compiled; many steps, so that there are some left to be killed in."""
    return {
        "data.source": "prepared",
        "data.options.folder": str(data),
        "data.num_workers": 1,
        "data.cache": False,
        "training.steps": STEPS,
        "optimizer.decay_steps": STEPS,
        "training.checkpoint_every": SAVED,
        "training.preview_every": 1000,
        **{f"network.{key}": value for key, value in ONE_LEVEL.items()},
    }


def make_config(data):
    config = own_images_config.get_config("base,smoke")
    config.update_from_flattened_dict(settings(data))
    return config


def train_command(data, workdir):
    command = [sys.executable, "-m", "imagen_jax.train", "--config=configs/own_images.py:base,smoke"]
    changes = [f"--config.{name}={value}" for name, value in settings(data).items()]
    return [*command, f"--workdir={workdir}", *changes]


def lines_of(workdir):
    """The lines of metrics without times and memory."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if not OF_TIME.search(name)} for line in lines]


def parents():
    """The parent of each process that lives; one that has ended and waits to be noticed does not."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            state, parent, *_ = (process / "stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if state not in "ZX":
            found[int(process.name)] = int(parent)
    return found


def below(process):
    """All processes that a process started, or that these started."""
    parent_of, found = parents(), [process]
    for one in found:
        found += [child for child, parent in parent_of.items() if parent == one]
    return found[1:]


def wait_until(holds, seconds, what):
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def test_training_continues_after_a_kill_as_if_there_had_been_none(embedded, environment, tmp_path):
    def start(workdir):
        return subprocess.run(
            train_command(embedded, workdir), cwd=CHECKOUT, env=environment, capture_output=True, text=True
        )

    ended = start(tmp_path / "whole")
    assert ended.returncode == 0, ended.stderr

    checkpoints = tmp_path / "cut" / "checkpoints"
    with (tmp_path / "log").open("w") as log:
        killed = subprocess.Popen(
            train_command(embedded, tmp_path / "cut"), cwd=CHECKOUT, env=environment, stdout=log, stderr=log
        )
    try:
        first = checkpoints / str(SAVED)
        wait_until(lambda: first.exists() or killed.poll() is not None, 900, "no checkpoint came")
        workers = below(killed.pid)
    finally:
        killed.kill()
    assert killed.wait() == -signal.SIGKILL, (tmp_path / "log").read_text()
    assert workers and not (checkpoints / str(STEPS)).exists()
    wait_until(lambda: not set(workers) & parents().keys(), 20, "data workers live on")

    ended = start(tmp_path / "cut")
    assert ended.returncode == 0 and re.search(rf"{tmp_path / 'cut'} .*\bstep \d+", ended.stdout), ended.stderr
    assert lines_of(tmp_path / "cut") == lines_of(tmp_path / "whole")
    assert [line["step"] for line in lines_of(tmp_path / "cut")] == list(range(1, STEPS + 1))
    whole, cut = (train(make_config(embedded), tmp_path / name) for name in ("whole", "cut"))
    assert int(whole.step) == STEPS
    assert all(np.array_equal(a, b) for a, b in zip(plain(whole), plain(cut), strict=True))
