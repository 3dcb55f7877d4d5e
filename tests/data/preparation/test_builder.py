import io
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from imagen_jax.data.preparation import builder
from imagen_jax.data.preparation.builder import prepare_data
from imagen_jax.data.sources.openmoji import openmoji_images
from imagen_jax.data.sources.rendering import MAX_NAMED, render_png
from imagen_jax.data.sources.sources import SOURCES, Source
from imagen_jax.data.splits import SPLITS, split_of
from imagen_jax.data.stored_images import captions_of, load_split
from imagen_jax.errors import UserError

FRACTION = 0.3


@pytest.fixture
def few_openmoji(monkeypatch):
    """Twenty drawings as a source of their own, and what they are."""
    images = openmoji_images()[700:720]
    monkeypatch.setitem(SOURCES, "few", Source(lambda: images, "few of OpenMoji"))
    return images


def decode(stored) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(stored.encoded)))


def test_what_was_rendered_is_what_is_read(few_openmoji, tmp_path):
    folder = prepare_data("few", 24, tmp_path, FRACTION)
    for split in SPLITS:
        expected = [image for image in few_openmoji if split_of(image.concept, FRACTION) == split]
        stored = load_split(folder, split)
        assert len(stored) == len(expected) > 0
        assert [each.key for each in stored] == [image.key for image in expected]
        assert (
            [each.captions for each in stored] == [(image.caption,) for image in expected] == captions_of(folder, split)
        )
        for each, image in zip(stored, expected, strict=True):
            np.testing.assert_array_equal(decode(each), image.render(24))


def test_the_manifest_describes_the_data_set(few_openmoji, tmp_path):
    manifest = json.loads((prepare_data("few", 8, tmp_path, FRACTION) / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["source"] == "few" and manifest["resolution"] == 8
    assert manifest["attribution"] == "few of OpenMoji"
    assert sum(manifest["counts"].values()) == 20


def test_a_second_call_renders_nothing(few_openmoji, tmp_path, monkeypatch):
    folder = prepare_data("few", 8, tmp_path, FRACTION)
    times = {file: file.stat().st_mtime_ns for file in folder.rglob("*")}
    monkeypatch.setattr(builder, "render_in_threads", None)
    assert prepare_data("few", 8, tmp_path, FRACTION) == folder
    assert {file: file.stat().st_mtime_ns for file in folder.rglob("*")} == times


def test_other_resolutions_fractions_and_images_are_other_data_sets(image_folder, tmp_path):
    def prepare(resolution=8, fraction=FRACTION):
        return prepare_data("folder", resolution, tmp_path / "data", fraction, folder=image_folder)

    folders = {prepare(), prepare(resolution=12), prepare(fraction=0.0)}
    (image_folder / "apple.txt").write_text("a green apple", encoding="utf-8")
    folders.add(prepare())
    os.utime(image_folder / "bear.png", ns=(1, 1))
    folders.add(prepare())
    assert len(folders) == 5


@pytest.mark.parametrize("error", [KeyboardInterrupt, UserError("fix it")])
def test_an_interrupted_build_leaves_nothing(few_openmoji, tmp_path, monkeypatch, error):
    def break_off(images, resolution):
        yield from [render_png(image, resolution) for image in images[:3]]
        raise error

    monkeypatch.setattr(builder, "render_in_threads", break_off)
    with pytest.raises((KeyboardInterrupt, UserError)):
        prepare_data("few", 8, tmp_path, FRACTION)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.thorough
def test_a_killed_build_does_not_look_complete(tmp_path):
    program = f"""
import os
from imagen_jax.data.preparation import builder
draw = builder.render_in_threads
def break_off(images, resolution):
    yield from list(draw(images[:20], resolution))
    os._exit(9)
builder.render_in_threads = break_off
builder.prepare_data("openmoji", 8, {str(tmp_path)!r})
"""
    assert subprocess.run([sys.executable, "-c", program], capture_output=True).returncode == 9
    leftovers = list(tmp_path.iterdir())
    assert leftovers and all(".partial-" in folder.name for folder in leftovers)


@pytest.mark.parametrize("damage", ["manifest.json", "captions.json", "shard"])
def test_a_damaged_data_set_is_built_again(few_openmoji, tmp_path, damage):
    folder = prepare_data("few", 8, tmp_path, FRACTION)
    file = next(folder.rglob("*train*record*")) if damage == "shard" else folder / damage
    file.write_bytes(file.read_bytes()[:20])
    assert prepare_data("few", 8, tmp_path, FRACTION) == folder
    assert len(load_split(folder, "train")) == len(captions_of(folder, "train"))


def test_an_empty_split_has_no_captions_and_cannot_be_opened(image_folder, tmp_path):
    folder = prepare_data("folder", 8, tmp_path / "data", 0.0, folder=image_folder)
    assert captions_of(folder, "validation") == []
    with pytest.raises(UserError, match="validation"):
        load_split(folder, "validation")


def test_a_source_whose_images_all_validate_is_refused(image_folder, tmp_path):
    with pytest.raises(UserError, match="'folder'"):
        prepare_data("folder", 8, tmp_path / "data", 0.999999, folder=image_folder)


def test_a_bad_image_is_named_and_nothing_is_left(image_folder, tmp_path):
    (image_folder / "bear.png").write_bytes(b"not an image")
    with pytest.raises(UserError, match=r"bear\.png"):
        prepare_data("folder", 8, tmp_path / "data", folder=image_folder)
    assert list((tmp_path / "data").iterdir()) == []


@pytest.mark.parametrize("fraction", [0.0, FRACTION])
def test_one_error_names_all_faulty_images_with_what_leaves_them_out(image_folder, tmp_path, fraction):
    (image_folder / "apple.txt").unlink()
    (image_folder / "bear.txt").write_bytes(b"")
    (image_folder / "cat.txt").write_bytes(b"\xff\xfe\xfa")
    (image_folder / "dog.png").write_bytes(b"not an image")
    Image.new("RGB", (7, 30)).save(image_folder / "more" / "jay.png")
    with pytest.raises(UserError) as raised:
        prepare_data("folder", 8, tmp_path / "data", fraction, folder=image_folder)
    message = str(raised.value)
    assert all(name in message for name in ("apple.png", "bear.png", "cat.png", "dog.png", "more/jay.png"))
    assert "5 of 10" in message and "prepare_data --min_side=8" in message
    assert not any(name in message for name in ("elk", "fox", "goat", "hen", "ibis"))
    assert list((tmp_path / "data").iterdir()) == []


def test_of_many_faulty_images_the_first_are_named(tmp_path):
    for number in range(30):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{number:02d}.png")
    with pytest.raises(UserError) as raised:
        prepare_data("folder", 8, tmp_path / "data", 0.5, folder=tmp_path)
    named = re.findall(r"\d\d\.png", str(raised.value))
    assert len(named) == len(set(named)) == MAX_NAMED and "30 of 30" in str(raised.value)


@pytest.mark.parametrize("resolution", [0, 1025])
def test_impossible_resolutions_are_refused(tmp_path, resolution):
    with pytest.raises(UserError, match=rf"\b{resolution}\b.*\b1024\b"):
        prepare_data("openmoji", resolution, tmp_path)


def test_an_unwritable_folder_is_named(few_openmoji, tmp_path):
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    with pytest.raises(UserError, match=rf"{tmp_path / 'file'} .*data_dir"):
        prepare_data("few", 8, tmp_path / "file")


def test_a_folder_without_a_data_set_is_named(tmp_path):
    for read in (load_split, captions_of):
        with pytest.raises(UserError, match=f"{tmp_path} .*prepare_data"):
            read(tmp_path, "train")


def test_tensorflow_is_never_imported_and_the_terminal_stays_quiet(image_folder, tmp_path):
    program = f"""
import sys

def refuse(event, arguments):
    if event == "import" and arguments[0].split(".")[0] in ("tensorflow", "torch"):
        raise AssertionError(f"{{arguments[0]}} was imported")

sys.addaudithook(refuse)
from imagen_jax.data.batches import make_batches
from imagen_jax.data.preparation.builder import prepare_data
from imagen_jax.data.stored_images import load_split
from imagen_jax.data.transforms import make_example
folder = prepare_data("folder", 16, {str(tmp_path / "data")!r}, 0.0, folder={str(image_folder)!r})
batches = make_batches(load_split(folder, "train"), make_example(8), 4, seed=0)
assert next(batches)["image"].shape == (4, 8, 8, 3)
"""
    result = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout == ""
    assert all(re.match("Reading .*16 px", line) for line in result.stderr.replace("\r", "\n").split("\n") if line)
