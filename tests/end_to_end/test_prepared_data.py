"""What the prepare_data command makes of a tree as COCO has it trains, and resumes bit for bit."""

import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

from configs import own_images as own_images_config
from imagen_jax.data.conversion import Conversion
from imagen_jax.data.parted_sources import list_parts
from imagen_jax.data.preparation import Preparation
from imagen_jax.data.preparation import prepare as run_preparation
from imagen_jax.data.splits import SPLITS
from imagen_jax.data.stored_images import captions_of
from imagen_jax.data.synthetic import synthetic_parts
from imagen_jax.train import train
from tests.end_to_end.smoke_runs import losses, plain

pytestmark = pytest.mark.slow

CHECKOUT = Path(__file__).parents[2]


def write_coco(folder):
    """Thirty images to train on and ten to validate, two captions each; one file is cut off, one caption empty."""
    (records,) = [list(part.read()) for part in synthetic_parts(count=40, resolution=48)]
    (folder / "annotations").mkdir(parents=True)
    for split, chosen in (("train2014", records[:30]), ("val2014", records[30:])):
        (folder / split).mkdir()
        images, annotations = [], []
        for number, record in enumerate(chosen):
            name = f"COCO_{split}_{number:012d}.jpg"
            content = record.encoded[:500] if number == 3 else record.encoded
            (folder / split / name).write_bytes(content)
            images.append({"id": number, "file_name": name, "width": 48, "height": 48, "license": 1})
            for which, caption in enumerate([*record.captions, "" if number == 4 else "some shape"]):
                annotations.append({"id": 10 * number + which, "image_id": number, "caption": caption})
        content = {"images": images, "annotations": annotations, "licenses": [{"id": 1, "url": "CC0", "name": "CC0"}]}
        (folder / "annotations" / f"captions_{split}.json").write_text(json.dumps(content))
    return folder


def run(module, *flags):
    command = [sys.executable, "-m", f"imagen_jax.{module}", *flags]
    return subprocess.run(
        command, cwd=CHECKOUT, env={**os.environ, "PYTHONPATH": str(CHECKOUT)}, capture_output=True, text=True
    )


def make_config(folder):
    config = own_images_config.get_config("base,smoke")
    config.data.update({"source": "prepared", "data_dir": "unused"})
    config.data.options.folder = str(folder)
    return config


def test_a_coco_tree_is_prepared_trains_and_resumes(tmp_path):
    coco = write_coco(tmp_path / "coco")
    data = f"--out={tmp_path / 'data'}"
    ended = run("prepare_data", data, "--source=coco", f"--option=folder={coco}", "--duplicates=keys", "--workers=2")
    assert ended.returncode == 0, ended.stderr
    assert f"{tmp_path / 'data'}: 29 train, 9 validation images in 2 shards" in ended.stdout
    assert "damaged: 2 image can't be decoded (quarantine.jsonl names them)" in ended.stdout
    captions = captions_of(tmp_path / "data", "train")
    assert len(captions) == 29 and sorted(map(len, captions)) == [1] + [2] * 28

    ended = run("embed_captions", f"--data={tmp_path / 'data'}", "--encoder=minilm")
    every = [caption for split in SPLITS for of_image in captions_of(tmp_path / "data", split) for caption in of_image]
    distinct = set(every)
    assert ended.returncode == 0 and f": {len(distinct)} captions, " in ended.stdout, ended.stderr

    whole = train(make_config(tmp_path / "data"), tmp_path / "whole")
    assert set(losses(tmp_path / "whole")) == {1, 2}
    config = make_config(tmp_path / "data")
    config.training.steps = 1
    train(config, tmp_path / "cut")
    stores = (tmp_path / "data" / "embeddings").rglob("store.json")
    counts = sorted(json.loads(store.read_text())["captions"] for store in stores)
    assert counts == sorted([len(distinct), len(set(config.preview.prompts))]), "the prompts alone were left to embed"
    resumed = train(make_config(tmp_path / "data"), tmp_path / "cut")
    assert all(np.array_equal(a, b) for a, b in zip(plain(whole), plain(resumed), strict=True))


def write_shards(folder):
    """Five shards of ten records, three of the fifty damaged: a page for an image, no caption, and a shard cut off."""
    (records,) = [list(part.read()) for part in synthetic_parts(count=50, resolution=48)]
    folder.mkdir()
    for shard in range(5):
        file = folder / f"{shard:05d}.tar"
        with tarfile.open(file, "w") as archive:
            for number, record in enumerate(records[10 * shard :][:10], start=10 * shard):
                members = {
                    "jpg": b"<html>404</html>" if number == 13 else record.encoded,
                    "json": json.dumps({"aesthetic": number / 5}).encode(),
                    "txt": record.captions[0].encode(),
                }
                if number == 24:
                    del members["txt"]
                for ending, content in members.items():
                    member = tarfile.TarInfo(f"{number:09d}.{ending}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
        if shard == 4:
            with tarfile.open(file) as archive:
                end = archive.getmember("000000049.jpg").offset_data + 100
            os.truncate(file, end)
    return folder


def write_own(folder):
    """A dozen images with their captions beside them, in two subfolders."""
    (records,) = [list(part.read()) for part in synthetic_parts(count=12, resolution=48, encoding="png")]
    for number, record in enumerate(records):
        place = folder / ("a" if number % 2 else "b")
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number}.png").write_bytes(record.encoded)
        (place / f"{number}.txt").write_text(record.captions[0])
    return folder


def test_tar_shards_and_a_folder_are_prepared_and_train(tmp_path):
    options = {"tar_shards": write_shards(tmp_path / "shards"), "folder": write_own(tmp_path / "own")}
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
    damaged = json.loads((tmp_path / "tar_shards" / "manifest.json").read_text())["damaged"]
    assert damaged == {"no caption": 1, "not an image": 1, "shard is damaged": 1}


def test_a_mistake_is_one_sentence(tmp_path):
    ended = run("prepare_data", f"--out={tmp_path / 'data'}", "--source=coco", "--option=folder=nowhere")
    assert ended.returncode == 2 and "nowhere" in ended.stderr and "Traceback" not in ended.stderr
