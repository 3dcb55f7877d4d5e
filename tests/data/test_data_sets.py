"""Prepared data sets as a run opens them: one or several, whole or hurt."""

import json
import os
from itertools import islice

import pytest

from imagen_jax.data.batches import make_batches
from imagen_jax.data.data_sets import open_data_sets
from imagen_jax.data.preparation.conversion import Conversion
from imagen_jax.data.preparation.preparation import Preparation, prepare
from imagen_jax.data.sources.synthetic import synthetic_parts
from imagen_jax.data.stored_images import UnreadableError, load_split
from imagen_jax.data.transforms import make_example
from imagen_jax.errors import UserError
from tests.tiers import thorough_except


@pytest.fixture(scope="module")
def two_folders(tmp_path_factory):
    """A data set of forty images and one of twelve."""
    folders = []
    for name, count in (("large", 40), ("small", 12)):
        folders.append(tmp_path_factory.mktemp("prepared") / name)
        parts = synthetic_parts(count=count, resolution=24, encoding="png", seed=count)
        preparation = Preparation("synthetic", {}, "CC0", parts, Conversion(validation_fraction=0.2), duplicates="keys")
        prepare(preparation, folders[-1], workers=0)
    return folders


@pytest.fixture
def hurtable(two_folders, tmp_path):
    """A copy of the larger data set, and the file of its training images."""
    folder = tmp_path / "copy"
    for file in two_folders[0].rglob("*"):
        if file.is_file():
            target = folder / file.relative_to(two_folders[0])
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes())
    (shard,) = folder.rglob("*-train.array_record*")
    return folder, shard


def open_prepared(*folders, weights=()):
    named = ", ".join(map(str, folders))
    return open_data_sets("prepared", 16, "unused", 0.05, {"folder": named}, weights)


@pytest.mark.thorough
def test_several_folders_are_one_mixture(two_folders):
    opened = open_prepared(*two_folders, weights=(1, 3))
    assert opened.folders == tuple(two_folders) and opened.weights == (1.0, 3.0)
    mixture = opened.load("train")
    keys = [{stored.key for stored in source} for source in mixture.sources]
    batches = make_batches(mixture, make_example(16), 16, seed=0)
    read = [key for batch in islice(batches, 256) for key in batch["key"]]
    assert sum(key in keys[1] for key in read) == 3072
    assert set(read) == keys[0] | keys[1]


def test_the_name_tells_data_and_weights_apart(two_folders):
    large, small = two_folders
    names = [
        open_prepared(large).name,
        open_prepared(small).name,
        open_prepared(large, small).name,
        open_prepared(small, large).name,
        open_prepared(large, small, weights=(1, 3)).name,
        open_prepared(large, small, weights=(1.0, 3.5)).name,
    ]
    assert len(set(names)) == len(names)
    # Of one data set a weight says nothing.
    assert open_prepared(large, weights=(2.0,)).name == names[0]


@pytest.mark.parametrize(("weights", "count"), [((1.0,), 1), ((1.0, 2.0, 3.0), 3)])
def test_weights_that_match_no_folders_are_refused(two_folders, weights, count):
    with pytest.raises(UserError, match=rf"\b{count} data\.weights.*\b2\b"):
        open_prepared(*two_folders, weights=weights)


def test_one_wrong_folder_is_named(two_folders, tmp_path):
    with pytest.raises(UserError, match=f"{tmp_path / 'nowhere'} .*prepare_data"):
        open_prepared(two_folders[0], tmp_path / "nowhere")


@pytest.mark.parametrize("content", ["", "{", "[]", "\udcff", '{"source": "synthetic"}'])
def test_a_manifest_that_is_none_is_refused(hurtable, content):
    folder, _ = hurtable
    (folder / "manifest.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError, match=str(folder)):
        open_prepared(folder)


@pytest.mark.parametrize("hurt", ["shorter", "gone", "captions"])
def test_files_that_do_not_match_the_manifest_are_refused(hurtable, hurt):
    folder, shard = hurtable
    if hurt == "shorter":
        os.truncate(shard, shard.stat().st_size - 1)
    elif hurt == "gone":
        shard.unlink()
    else:
        (shard,) = folder.glob("captions/*train*")
        shard.write_bytes(shard.read_bytes()[:-30])
    with pytest.raises(UserError, match=shard.name):
        open_prepared(folder)


def flip_a_byte(shard, of_record):
    """Hurts one record within its image."""
    content = bytearray(shard.read_bytes())
    content[content.index(of_record.encoded[-60:-20])] ^= 1
    shard.write_bytes(content)


def test_a_record_whose_checksum_differs_is_left_out(hurtable, caplog):
    folder, shard = hurtable
    mixture = open_prepared(folder).load("train")
    hurt = mixture.sources[0][3]
    names = [stored.key for stored in mixture.sources[0]]
    flip_a_byte(shard, hurt)
    mixture = open_prepared(folder).load("train")
    with pytest.raises(UnreadableError):
        mixture.sources[0][3]
    batches = make_batches(mixture, make_example(16), 8, seed=0, shuffle=False, max_bad_fraction=0.1)
    with caplog.at_level("WARNING", logger="absl"):
        keys = [key for batch in islice(batches, 4) for key in batch["key"]]
    assert keys == [*names[:3], names[4], *names[4:32]]
    assert batches.metrics(batches.get_state())["unreadable_images"] == 1
    assert "image 3 of data set 1" in caplog.text


@pytest.mark.parametrize("num_workers", thorough_except([0], [0, 1]))
@pytest.mark.parametrize("hurt", ["shorter", "gone"])
def test_a_shard_that_vanishes_while_it_is_read_ends_the_run(hurtable, hurt, num_workers):
    folder, shard = hurtable
    batches = make_batches(open_prepared(folder).load("train"), make_example(16), 8, seed=0, num_workers=num_workers)
    # Nothing has been read, so ArrayRecord has yet to open the file.
    if hurt == "gone":
        shard.unlink()
    else:
        os.truncate(shard, 100)
    with pytest.raises(UserError, match=shard.name):
        list(islice(batches, 20))


def test_prepared_data_have_no_folds(two_folders):
    with pytest.raises(UserError, match="fold 1"):
        open_data_sets("prepared", 16, "unused", 0.05, {"folder": str(two_folders[0])}, fold=1)


def test_each_fold_of_rendered_data_is_a_data_set(tmp_path, monkeypatch):
    from imagen_jax.data.sources.openmoji import openmoji_images
    from imagen_jax.data.sources.sources import SOURCES, Source

    drawings = openmoji_images()[700:730]
    monkeypatch.setitem(SOURCES, "few", Source(lambda: drawings, "few of OpenMoji"))
    opened = [open_data_sets("few", 8, tmp_path, 0.2, {}, fold=fold, folds=3) for fold in range(3)]
    assert len({one.name for one in opened}) == len({one.fingerprint for one in opened}) == 3
    held_out = [stored.key for one in opened for stored in one.load("validation").sources[0]]
    assert sorted(held_out) == [drawing.key for drawing in drawings], "each drawing is held out once"
    manifest = json.loads((opened[1].folders[0] / "manifest.json").read_text())
    assert (manifest["fold"], manifest["folds"]) == (1, 3) and "validation_fraction" not in manifest
    with pytest.raises(UserError, match="fold 3"):
        open_data_sets("few", 8, tmp_path, 0.2, {}, fold=3, folds=3)


def test_rendered_data_are_opened_too(two_folders, tmp_path, monkeypatch):
    from imagen_jax.data.sources.openmoji import openmoji_images
    from imagen_jax.data.sources.sources import SOURCES, Source

    monkeypatch.setitem(SOURCES, "few", Source(lambda: openmoji_images()[700:720], "few of OpenMoji"))
    opened = open_data_sets("few", 8, tmp_path, 0.2, {})
    assert len(opened.folders) == 1 and opened.name == opened.folders[0].name
    manifest = json.loads((opened.folders[0] / "manifest.json").read_text())
    assert len(opened.load("train")) == manifest["counts"]["train"]
    assert load_split(opened.folders[0], "train")[0].key == opened.load("train").sources[0][0].key
