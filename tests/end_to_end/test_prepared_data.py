"""What the prepare_data command makes of a tree as COCO has it trains, and resumes bit for bit."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from configs import own_images as own_images_config
from imagen_jax.data.preparation.conversion import Conversion
from imagen_jax.data.preparation.preparation import Preparation
from imagen_jax.data.preparation.preparation import prepare as run_preparation
from imagen_jax.data.sources.parted_sources import list_parts
from imagen_jax.data.sources.synthetic import synthetic_parts
from imagen_jax.data.splits import SPLITS
from imagen_jax.data.stored_images import captions_of
from imagen_jax.train import train_to_end as train
from tests.end_to_end.data_trees import write_coco, write_own, write_shards
from tests.end_to_end.smoke_runs import copy_after_first_step, losses, plain
from tests.forked_programs import run_forked
from tests.small_networks import ONE_LEVEL

pytestmark = pytest.mark.slow(seconds=55)

CHECKOUT = Path(__file__).parents[2]


def draw_records(count, encoding="jpeg"):
    (records,) = [list(part.read()) for part in synthetic_parts(count=count, resolution=48, encoding=encoding)]
    return records


def run(module, *flags):
    command = [sys.executable, "-m", f"imagen_jax.{module}", *flags]
    return subprocess.run(
        command, cwd=CHECKOUT, env={**os.environ, "PYTHONPATH": str(CHECKOUT)}, capture_output=True, text=True
    )


def make_config(folder):
    config = own_images_config.get_config("base,smoke")
    config.network.update(ONE_LEVEL)
    config.data.update({"source": "prepared", "data_dir": "unused"})
    config.data.options.folder = str(folder)
    return config


@pytest.mark.thorough
def test_a_coco_tree_is_prepared_trains_and_resumes(tmp_path):
    coco = write_coco(tmp_path / "coco", draw_records(40), 10, "some shape", cut=(3, 33), empty=(4, 34))
    data = f"--out={tmp_path / 'data'}"
    ended = run("prepare_data", data, "--source=coco", f"--option=folder={coco}", "--duplicates=keys", "--workers=2")
    assert ended.returncode == 0, ended.stderr
    assert re.search(rf"{tmp_path / 'data'}: .*\b29 .*\b9 .*\b2 ", ended.stdout)
    assert re.search(r"\b2 .*quarantine\.jsonl", ended.stdout)
    captions = captions_of(tmp_path / "data", "train")
    assert len(captions) == 29 and sorted(map(len, captions)) == [1] + [2] * 28

    ended = run_forked("imagen_jax.commands.embed_captions", f"--data={tmp_path / 'data'}", "--encoder=minilm")
    every = [caption for split in SPLITS for of_image in captions_of(tmp_path / "data", split) for caption in of_image]
    distinct = set(every)
    assert ended.returncode == 0 and f": {len(distinct)} captions, " in ended.stdout, ended.stderr

    whole = train(make_config(tmp_path / "data"), tmp_path / "whole")
    assert set(losses(tmp_path / "whole")) == {1, 2}
    stores = (tmp_path / "data" / "embeddings").rglob("store.json")
    counts = [json.loads(store.read_text())["captions"] for store in stores]
    assert counts == [len(distinct)], "the prompts of previews are captions, and nothing was left to embed"
    cut = copy_after_first_step(tmp_path / "whole", tmp_path / "cut")
    resumed = train(make_config(tmp_path / "data"), cut)
    assert all(np.array_equal(a, b) for a, b in zip(plain(whole), plain(resumed), strict=True))


@pytest.mark.thorough
def test_tar_shards_and_a_folder_are_prepared_and_train(tmp_path):
    shards = write_shards(tmp_path / "shards", draw_records(50), 5, pages=(13,), without_caption=(24,))
    options = {"tar_shards": shards, "folder": write_own(tmp_path / "own", draw_records(12, "png"), "png")}
    expected = {"tar_shards": 47, "folder": 12}
    for source, folder in options.items():
        chosen = {"folder": str(folder)}
        parts = list_parts(source, chosen)
        prepared = Preparation(source, chosen, "Ours", parts, Conversion(validation_fraction=0.2), duplicates="keys")
        manifest = run_preparation(prepared, tmp_path / source, workers=0)
        assert sum(manifest["counts"].values()) == expected[source]
        config = make_config(tmp_path / source)
        config.training.update({"steps": 1, "batch_size": 8})
        train(config, tmp_path / f"{source}_run")
        assert set(losses(tmp_path / f"{source}_run")) == {1}
    config = make_config(f"{tmp_path / 'tar_shards'},{tmp_path / 'folder'}")
    config.data.weights = (1, 3)
    config.training.update({"steps": 1, "batch_size": 8})
    train(config, tmp_path / "mixed_run")
    (line,) = [json.loads(line) for line in (tmp_path / "mixed_run" / "metrics.jsonl").read_text().splitlines()]
    counts = [json.loads((tmp_path / source / "manifest.json").read_text())["counts"]["train"] for source in options]
    assert [line["epochs_1"], line["epochs_2"]] == [2 / counts[0], 6 / counts[1]] and line["unreadable_images"] == 0
    damaged = json.loads((tmp_path / "tar_shards" / "manifest.json").read_text())["damaged"]
    assert damaged == {"no caption": 1, "not an image": 1, "shard is damaged": 1}


def test_a_mistake_is_one_sentence(tmp_path):
    data = f"--out={tmp_path / 'data'}"
    ended = run_forked("imagen_jax.commands.prepare_data", data, "--source=coco", "--option=folder=nowhere")
    assert ended.returncode == 2 and "nowhere" in ended.stderr and "Traceback" not in ended.stderr
