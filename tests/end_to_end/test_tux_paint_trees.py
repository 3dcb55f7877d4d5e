"""Real pictures in the layouts of others, 200 stamps of Tux Paint, train with stored embeddings; by commands alone."""

import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from imagen_jax.data.sources.records import Record
from imagen_jax.data.sources.tux_paint import FOLDER, INSTALL, tux_paint_parts
from tests.end_to_end.data_trees import write_coco, write_own, write_shards
from tests.end_to_end.smoke_runs import losses

pytestmark = [
    pytest.mark.slow,
    pytest.mark.references,
    pytest.mark.thorough,
    pytest.mark.skipif(not Path(FOLDER).is_dir(), reason=f"the stamps are not on this machine: {INSTALL}"),
]

CHECKOUT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def stamps():
    """The first 200 of at least 100 pixels, as JPEGs on white."""
    chosen = []
    for part in tux_paint_parts():
        for record in part.read():
            assert isinstance(record, Record)
            image = Image.open(io.BytesIO(record.encoded)).convert("RGBA")
            if min(image.size) >= 100 and len(chosen) < 200:
                ground = Image.new("RGBA", image.size, "white")
                buffer = io.BytesIO()
                Image.alpha_composite(ground, image).convert("RGB").save(buffer, format="JPEG", quality=90)
                chosen.append(replace(record, encoded=buffer.getvalue()))
    assert len(chosen) == 200
    return chosen


def run(module, *flags):
    command = [sys.executable, "-m", f"imagen_jax.{module}", *map(str, flags)]
    ended = subprocess.run(
        command, cwd=CHECKOUT, env={**os.environ, "PYTHONPATH": str(CHECKOUT)}, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def prepare(folder, source, option, *flags):
    """Prepares and embeds, and returns the manifest."""
    run("prepare_data", f"--source={source}", f"--option={option}", f"--out={folder}", "--workers=2", *flags)
    run("embed_captions", f"--data={folder}", "--encoder=minilm")
    return json.loads((folder / "manifest.json").read_text())


def train(workdir, data, *flags):
    """Trains two steps, and returns their losses."""
    run("train", "--config=configs/own_images.py:base,smoke", f"--workdir={workdir}", "--config.data.source=prepared",
        f"--config.data.options.folder={data}", "--config.data.cache=False", "--config.data.num_workers=1",
        "--config.data.resolution=64", *flags)  # fmt: skip
    return losses(workdir)


def test_coco_tar_shards_and_a_folder_of_stamps_train_alone_and_mixed(stamps, tmp_path):
    coco = write_coco(tmp_path / "tree", stamps, 40, "a picture from a drawing program", cut=(7, 170), empty=(9,))
    manifest = prepare(tmp_path / "coco", "coco", f"folder={coco}")
    assert sum(manifest["counts"].values()) + sum(manifest["repeated"].values()) == 198
    assert manifest["counts"]["validation"] >= 38 and manifest["damaged"] == {"image can't be decoded": 2}

    # Of 200 members ten are damaged: five are pages, four have no caption, and the last is cut off.
    shards = write_shards(tmp_path / "shards", stamps, 5, pages=range(3, 200, 40), without_caption=range(20, 180, 40))
    manifest = prepare(tmp_path / "web", "tar_shards", f"folder={shards}")
    assert manifest["damaged"] == {"no caption": 4, "not an image": 5, "shard is damaged": 1}
    assert sum(manifest["counts"].values()) + sum(manifest["repeated"].values()) == 190

    own = write_own(tmp_path / "own", stamps[:60], "jpg")
    manifest = prepare(tmp_path / "mine", "folder", f"folder={own}")
    assert sum(manifest["counts"].values()) + sum(manifest["repeated"].values()) == 60

    folders = [tmp_path / name for name in ("coco", "web", "mine")]
    for folder in folders:
        assert set(train(tmp_path / f"{folder.name}_run", folder)) == {1, 2}
    mixed = train(tmp_path / "mixed_run", ",".join(map(str, folders)), "--config.data.weights=(3,2,1)",
                  "--config.data.crop=random")  # fmt: skip
    assert set(mixed) == {1, 2}
    # All captions had been embedded, and the prompts of previews are some of them.
    embedded = [json.loads(file.read_text())["captions"] for file in (tmp_path / "coco").rglob("store.json")]
    assert len(embedded) == 1 and embedded[0] > 20
