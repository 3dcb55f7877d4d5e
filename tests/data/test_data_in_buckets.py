"""Images and data sets in a bucket: the same examples as on a disk."""

import multiprocessing

import numpy as np
import pytest

from imagen_jax.data.preparation.begun_jobs import check_begun
from imagen_jax.data.preparation.builder import prepare_data
from imagen_jax.data.preparation.preparation import Preparation
from imagen_jax.data.preparation.preparation import prepare as run_preparation
from imagen_jax.data.preparation.preparation import upload as upload_data
from imagen_jax.data.sources.folder import folder_images
from imagen_jax.data.stored_images import captions_of, load_split
from imagen_jax.errors import UserError
from imagen_jax.storage.local_copies import working_folder
from tests.data.part_sources import parts
from tests.storage.uploads import upload


def test_images_in_a_bucket_are_those_of_the_folder(image_folder, bucket):
    ours = folder_images(image_folder)
    theirs = folder_images(str(upload(image_folder, bucket / "pictures")))
    assert [(one.key, one.caption, one.concept) for one in ours] == [
        (one.key, one.caption, one.concept) for one in theirs
    ]
    assert all(np.array_equal(one.render(8), other.render(8)) for one, other in zip(ours, theirs, strict=True))
    (bucket / "pictures" / "bear.png").write_bytes((image_folder / "cat.png").read_bytes())
    changed = folder_images(bucket / "pictures")
    assert [one.key for one, other in zip(theirs, changed, strict=True) if one.fingerprint != other.fingerprint] == [
        "bear.png"
    ]


def test_a_caption_that_is_missing_and_a_folder_that_is_not_there_are_named(image_folder, bucket):
    (image_folder / "cat.txt").unlink()
    upload(image_folder, bucket)
    with pytest.raises(UserError, match=rf"{bucket}/cat\.png"):
        folder_images(bucket)[2].render(8)
    with pytest.raises(UserError, match=f"{bucket}/none"):
        folder_images(bucket / "none")


def prepare(folder, data_dir):
    return prepare_data("folder", 8, data_dir, validation_fraction=0.3, folder=str(folder))


def test_a_data_set_is_rendered_once_and_read_elsewhere(image_folder, bucket, fake_buckets, monkeypatch, capsys):
    here = prepare(image_folder, str(image_folder.parent / "data"))
    folder = prepare(image_folder, str(bucket / "data"))
    assert folder.name == here.name and folder.parent == bucket / "data"
    names = list(fake_buckets.buckets[bucket.parts[2]])
    assert names[-1] == f"data/{folder.name}/manifest.json", "it says that all else is there, and so comes last"
    load_split(folder, "train")
    assert capsys.readouterr().out == "", "what was made here need not be copied"

    # Another machine, which has no copies.
    monkeypatch.setenv("IMAGEN_JAX_CACHE", str(image_folder.parent / "other_cache"))
    fake_buckets.log.clear()
    assert prepare(image_folder, bucket / "data") == folder
    assert not [line for line in fake_buckets.log if "POST" in line]
    for split in ("train", "validation"):
        assert captions_of(str(folder), split) == captions_of(here, split)
        assert list(load_split(folder, split)) == list(load_split(here, split))
    assert f"of {folder}/captioned_images to " in capsys.readouterr().out
    # Worker processes get the path of the copy, not a connection.
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(len, (load_split(folder, "train"),)) == len(captions_of(here, "train"))


def test_a_data_set_that_was_half_uploaded_is_none(image_folder, bucket, fake_buckets):
    fake_buckets.denied.add("manifest.json")
    with pytest.raises(UserError, match=f"{bucket}/data"):
        prepare(image_folder, bucket / "data")
    fake_buckets.denied.clear()
    with pytest.raises(UserError, match=f"{bucket}/data.*prepare_data"):
        captions_of(bucket / "data" / prepare(image_folder, image_folder.parent / "here").name, "train")
    assert captions_of(prepare(image_folder, bucket / "data"), "train")


def test_a_data_set_of_any_size_is_put_into_a_bucket(bucket, tmp_path, monkeypatch, capsys):
    out = bucket / "data"
    preparation = Preparation("pictures", {}, "Ours, CC0", parts(40), max_bad_fraction=0.2)
    folder = working_folder(out) / out.name
    run_preparation(preparation, folder, workers=0)
    upload_data(folder, out)
    assert sorted(path.name for path in out.iterdir()) == [
        "captioned_images", "captions", "job.json", "manifest.json", "quarantine.jsonl", "repeated.jsonl",
    ]  # fmt: skip
    assert prepare_data("prepared", 16, "nowhere", folder=str(out)) == out
    keys = [one.key for one in load_split(out, "train")]
    assert "Copying" not in capsys.readouterr().out, "what was made here is its own copy"
    monkeypatch.setenv("IMAGEN_JAX_CACHE", str(tmp_path / "another_machine"))
    assert [one.key for one in load_split(out, "train")] == keys and len(keys) > 30
    assert check_begun(preparation.describe(), out)
    with pytest.raises(UserError, match=f"{out}.*--out"):
        check_begun(Preparation("pictures", {}, "Ours, CC0", parts(20)).describe(), out)
