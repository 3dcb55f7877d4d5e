"""A source becomes a data set: whole, the same however it was interrupted, and honest about what it left out."""

import hashlib
import io
import json
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from imagen_jax.data.batches import make_batches
from imagen_jax.data.preparation.builder import prepare_data
from imagen_jax.data.preparation.conversion import Conversion
from imagen_jax.data.preparation.filters import Filters, parse_condition
from imagen_jax.data.preparation.image_files import ImageRules
from imagen_jax.data.preparation.preparation import Preparation, prepare
from imagen_jax.data.sources.records import Damage
from imagen_jax.data.splits import split_of
from imagen_jax.data.stored_images import captions_of, load_split
from imagen_jax.data.transforms import make_example
from imagen_jax.errors import UserError
from imagen_jax.storage.folder_locks import locked
from tests.data.part_sources import draw, draw_smooth, encode, listed, parts, read_until_killed, record

SPLITS = ("train", "validation")


def preparation(of_parts, conversion=None, **changed):
    changed = {"max_bad_fraction": 0.2, **changed}
    return Preparation("pictures", {"folder": "here"}, "Ours, CC0", of_parts, conversion or Conversion(), **changed)


def content_of(folder):
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A hundred records in five parts, ten of them damaged."""
    folder = tmp_path_factory.mktemp("prepared") / "data"
    return folder, prepare(preparation(parts(100)), folder, workers=0)


def test_what_is_good_is_stored_as_it_was_and_what_is_bad_is_named(prepared):
    folder, manifest = prepared
    good = [number for number in range(100) if number % 10 != 7]
    expected = {split: [n for n in good if split_of(f"image-{n:05d}") == split] for split in SPLITS}
    assert expected["validation"] and len(expected["train"]) > 70
    for split in SPLITS:
        stored = load_split(folder, split)
        assert [one.key for one in stored] == [f"image-{number:05d}" for number in expected[split]]
        for one, number in zip(stored, expected[split], strict=True):
            assert one.encoded == encode(draw(number)) and one.captions == record(number).captions
        assert captions_of(folder, split) == [one.captions for one in stored]
    assert manifest["counts"] == {split: len(expected[split]) for split in SPLITS}
    assert manifest["damaged"] == {"image can't be decoded": 3, "no caption": 4, "not an image": 3}
    quarantined = [json.loads(line) for line in (folder / "quarantine.jsonl").read_text().splitlines()]
    assert [row["key"] for row in quarantined] == [f"image-{number:05d}" for number in range(7, 100, 10)]
    assert {row["reason"] for row in quarantined} == set(manifest["damaged"])


def test_the_manifest_counts_and_its_checksums_hold(prepared):
    folder, manifest = prepared
    for shard in manifest["shards"]:
        assert hashlib.sha256((folder / shard["file"]).read_bytes()).hexdigest() == shard["sha256"]
    assert sum(shard["records"] for shard in manifest["shards"]) == 90
    statistics = manifest["statistics"]
    assert (
        statistics["shorter_side"] == {"32": 90}
        and statistics["captions"] == {"2": 90}
        and manifest["least_side"] == 32
    )
    assert statistics["words"] == {"3": 90, "4": 90} and statistics["width_by_height"] == {"0.8": 90}
    assert manifest["attribution"] == "Ours, CC0"
    assert sorted(path.name for path in folder.iterdir()) == [
        "captioned_images", "captions", "job.json", "manifest.json", "quarantine.jsonl", "repeated.jsonl",
    ]  # fmt: skip


def test_tfds_reads_it_by_itself(prepared):
    folder, _ = prepared
    records = tfds.builder_from_directory(folder / "captioned_images").as_data_source("train")
    first = records[0]
    assert np.array_equal(first["image"], draw(0)) and json.loads(first["metadata"]) == {"score": 0.0, "licence": "CC0"}
    assert [caption.decode() for caption in first["captions"]] == ["a red picture", "picture 0 is red"]


def test_workers_and_a_kill_in_the_midst_change_not_a_byte(prepared, tmp_path):
    folder = tmp_path / "data"
    killed = preparation(parts(100, read_part=partial(read_until_killed, str(tmp_path))))
    with pytest.raises(UserError, match="--workers"):
        prepare(killed, folder, workers=2)
    assert (tmp_path / "killed").exists() and not (folder / "manifest.json").exists()
    prepare(killed, folder, workers=2)
    assert content_of(folder) == content_of(prepared[0])


def test_an_end_while_shards_are_placed_changes_not_a_byte(prepared, tmp_path, monkeypatch):
    from imagen_jax.data.preparation import preparation as module

    folder = tmp_path / "data"
    place_shard, placed = module.place_shard, []

    def place_two(*arguments):
        if len(placed) == 2:
            raise KeyboardInterrupt
        placed.append(place_shard(*arguments))
        return placed[-1]

    with monkeypatch.context() as patch:
        patch.setattr(module, "place_shard", place_two)
        with pytest.raises(KeyboardInterrupt):
            prepare(preparation(parts(100)), folder, workers=0)
    with monkeypatch.context() as patch:
        patch.setattr(module, "convert_all", partial(refuse_new_parts, module.convert_all, patch))
        prepare(preparation(parts(100)), folder, workers=0)
    assert content_of(folder) == content_of(prepared[0])


def refuse_new_parts(convert_all, patch, *arguments):
    from imagen_jax.data.preparation import conversion

    patch.setattr(conversion, "judge_records", None)
    return convert_all(*arguments)


def test_what_is_done_is_not_done_again_and_another_job_is_refused(prepared, monkeypatch):
    folder, manifest = prepared
    from imagen_jax.data.preparation import preparation as module

    with monkeypatch.context() as patch:
        patch.setattr(module, "convert_all", None)
        assert prepare(preparation(parts(100)), folder, workers=0) == manifest
    with pytest.raises(UserError, match=r"duplicates.*--out"):
        prepare(preparation(parts(100), duplicates="keys"), folder, workers=0)
    with pytest.raises(UserError, match=r"conversion.*--out"):
        prepare(preparation(parts(100), Conversion(ImageRules(shorter_side=8))), folder, workers=0)
    with pytest.raises(UserError, match=f"{folder} .*--out"):
        prepare(preparation(parts(120)), folder, workers=0)
    with (
        locked(folder, "--out"),
        pytest.raises(UserError, match=rf"\b{os.getpid()}\b.*--out"),
    ):
        prepare(preparation(parts(100)), folder, workers=0)


def test_filters_drop_and_count(tmp_path):
    conditions = (parse_condition("score >= 2"), parse_condition("licence==CC0"))
    filters = Filters(least_side=33, largest_aspect=1.5, fewest_words=4, conditions=conditions)
    tall, square = encode(draw(1, (80, 40))), encode(draw(2, (48, 48)))
    records = [
        record(0),
        record(30, encoded=tall),
        record(1, encoded=square),
        record(31, encoded=square, metadata={"score": "3.5", "licence": "none"}),
        record(32, encoded=square, metadata={}),
        record(33, encoded=square, captions=("one two three",)),
        record(34, encoded=square),
    ]
    manifest = prepare(
        preparation([listed(records)], Conversion(filters=filters, validation_fraction=0.0)), tmp_path, 0
    )
    assert manifest["dropped"] == {
        "shorter side under 33 px": 1, "longer side over 1.5 times the shorter": 1, "not score>=2": 2,
        "not licence==CC0": 1, "no caption of the requested length": 1,
    }  # fmt: skip
    (kept,) = load_split(tmp_path, "train")
    assert (kept.key, kept.captions) == ("image-00034", ("picture 34 is green",))


REPEATED = {"keys": (0, "keys", 0), "files": (2, "files", 0), "looks": (3, "looks", 1)}


@pytest.mark.parametrize(
    ("duplicates", "kept"), [("keys", [0, 1, 2, 3, 5]), ("files", [0, 1, 3, 5]), ("looks", [0, 1, 5])]
)
def test_repetitions_go_and_the_first_stays(tmp_path, duplicates, kept):
    records = [
        record(0),
        record(1, encoded=encode(draw_smooth(1))),
        record(2, encoded=encode(draw(0))),
        record(3, encoded=encode(draw_smooth(1), "JPEG")),
        record(4, key="image-00000"),
        record(5),
    ]
    two = [listed(records[:4]), listed(records[4:])]
    conversion = Conversion(validation_fraction=0.0)
    manifest = prepare(preparation(two, conversion, duplicates=duplicates), tmp_path, 0)
    assert [one.key for one in load_split(tmp_path, "train")] == [f"image-{number:05d}" for number in kept]
    assert captions_of(tmp_path, "train") == [record(number).captions for number in kept]
    assert sum(manifest["repeated"].values()) == 6 - len(kept)
    expected = [REPEATED[name] for name in list(REPEATED)[: list(REPEATED).index(duplicates) + 1]]
    rows = [json.loads(line) for line in (tmp_path / "repeated.jsonl").read_text().splitlines()]
    assert sorted((row["key"], row["test"], row["of"]) for row in rows) == [
        (f"image-{key:05d}", test, f"image-{of:05d}") for key, test, of in expected
    ]


def test_a_repetition_of_a_repetition_names_the_record_that_stays(tmp_path):
    """Across parts and tests: the third has the file of the second, which looks as the first."""
    small = Image.fromarray(draw_smooth(1)).resize((160, 120), Image.Resampling.BICUBIC)
    files = [encode(draw_smooth(1)), encode(np.asarray(small)), encode(np.asarray(small))]
    of_parts = [listed([record(number, encoded=file)]) for number, file in enumerate(files)]
    manifest = prepare(preparation(of_parts, Conversion(validation_fraction=0.0), duplicates="looks"), tmp_path, 0)
    assert manifest["repeated"] == {"keys": 0, "files": 1, "looks": 1}
    rows = [json.loads(line) for line in (tmp_path / "repeated.jsonl").read_text().splitlines()]
    assert rows == [
        {"key": "image-00001", "test": "looks", "of": "image-00000"},
        {"key": "image-00002", "test": "files", "of": "image-00000"},
    ]


def test_every_file_is_on_the_disk_before_its_report(tmp_path, monkeypatch):
    """A power cut can't be tested here, so this is the order in which the files are synced."""
    synced, fsync = [], os.fsync

    def record_sync(opened):
        synced.append(Path(os.readlink(f"/proc/self/fd/{opened}")).name)
        fsync(opened)

    monkeypatch.setattr(os, "fsync", record_sync)
    prepare(preparation(parts(20)), tmp_path, 0)
    report, manifest = (
        next(index for index, name in enumerate(synced) if name.endswith(f"unfinished.{ending}"))
        for ending in ("report.json", "manifest.json")
    )
    of_part = {f"{split}{ending}" for split in SPLITS for ending in (".array_record", ".jsonl", ".hashes.npy")}
    assert of_part | {"quarantine.jsonl"} <= set(synced[:report])
    of_all = {"captioned_images-train.array_record-00000-of-00001", "train-00000.jsonl", "repeated.jsonl"}
    assert of_all <= set(synced[report:manifest])


def test_too_many_bad_records_stop_the_preparation(tmp_path):
    with pytest.raises(UserError, match=r"10 of 100 .*no caption 4, .*--max_bad_fraction"):
        prepare(preparation(parts(100), max_bad_fraction=0.05), tmp_path, workers=0)
    assert not (tmp_path / "manifest.json").exists()
    prepare(preparation(parts(100), max_bad_fraction=0.1), tmp_path, workers=0)


def test_a_source_that_leaves_nothing_is_refused(tmp_path):
    with pytest.raises(UserError, match="'pictures'"):
        prepare(preparation(parts(20), Conversion(filters=Filters(least_side=1000))), tmp_path, workers=0)


def test_training_reads_whole_images_cropped_and_another_caption_each_time(prepared):
    folder, _ = prepared
    assert prepare_data("prepared", 16, "nowhere", folder=str(folder)) == folder
    with pytest.raises(UserError, match=r"\b32\b.*data\.resolution=64.*--min_side=64"):
        prepare_data("prepared", 64, "nowhere", folder=str(folder))
    batches = make_batches(load_split(folder, "train"), make_example(16), 20, seed=1, shuffle=False)
    seen = [next(batches) for _ in range(30)]
    first = seen[0]
    expected = draw(0)[4:36].reshape(16, 2, 16, 2, 3).mean(axis=(1, 3))
    assert np.abs((first["image"][0] + 1) * 127.5 - expected).max() <= 0.51
    captions = [
        caption
        for batch in seen
        for key, caption in zip(batch["key"], batch["caption"], strict=True)
        if key == "image-00000"
    ]
    assert set(captions) == set(record(0).captions) and len(captions) >= 6


def test_a_missing_shard_is_an_error_before_training(prepared, tmp_path):
    import shutil

    copy = tmp_path / "data"
    shutil.copytree(prepared[0], copy)
    next((copy / "captioned_images").glob("*train*00001*")).unlink()
    with pytest.raises(UserError, match=r"train\.array_record-00001-of-00005"):
        prepare_data("prepared", 16, "nowhere", folder=str(copy))


def test_images_are_stored_smaller_when_requested(tmp_path):
    prepare(preparation(parts(20), Conversion(ImageRules(shorter_side=16))), tmp_path, workers=0)
    stored = load_split(tmp_path, "train")[0]
    assert Image.open(io.BytesIO(stored.encoded)).size == (16, 20)


def test_no_run_continues_on_another_data_set(prepared):
    split = load_split(prepared[0], "train")
    batches = make_batches(split, make_example(16), 8, seed=1, data="one")
    next(batches)
    with pytest.raises(UserError, match=r"data one .*another"):
        make_batches(split, make_example(16), 8, seed=1, data="another").set_state(batches.get_state())


SLOW = """
import sys, time
from functools import partial
from pathlib import Path
from imagen_jax.data.preparation.preparation import Preparation, prepare
from tests.data.part_sources import parts, read_slowly

if __name__ == "__main__":
    made = parts(40, 10, partial(read_slowly, sys.argv[1]))
    prepare(Preparation("pictures", {}, "Ours", made, max_bad_fraction=0.2), Path(sys.argv[1]) / "data", 2)
"""


@pytest.mark.thorough
def test_workers_end_with_the_process_that_started_them(prepared, tmp_path):
    """However it ends: else they would write on, where the next run writes too."""
    script = tmp_path / "prepare_slowly.py"
    script.write_text(SLOW)
    checkout = Path(__file__).parents[3]
    started = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path)], env={**os.environ, "PYTHONPATH": str(checkout)}
    )
    while len(workers := list(tmp_path.glob("worker-*"))) < 2:
        assert started.poll() is None
        time.sleep(0.05)
    started.kill()
    started.wait()
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{worker.name.removeprefix('worker-')}").exists() for worker in workers):
        assert time.monotonic() < deadline, "they live on"
        time.sleep(0.05)


def test_what_is_refused_for_its_damage_gives_an_example_with_its_reason(tmp_path):
    items = [Damage("photo-3", "no caption", "row 3 has none"), Damage("photo-4", "no caption"), record(1)]
    with pytest.raises(UserError, match=r"2 of 3 .*no caption 2.*photo-3 \(row 3 has none\)"):
        prepare(Preparation("any", {}, "Ours", [listed(items)]), tmp_path, workers=0)
