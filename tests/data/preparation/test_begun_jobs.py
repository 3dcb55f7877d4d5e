"""prepare_data again in the same folder: the same goes on, what failed gives way, and what was made is kept."""

import inspect
import json

import pytest

from imagen_jax.data.preparation.begun_jobs import without_paths
from imagen_jax.data.preparation.conversion import Conversion
from imagen_jax.data.preparation.filters import Filters
from imagen_jax.data.preparation.preparation import Preparation, prepare
from imagen_jax.data.sources.parted_sources import PARTED_SOURCES, list_parts
from imagen_jax.errors import UserError
from tests.end_to_end.smoke_runs import draw_own_images


@pytest.fixture
def images(tmp_path):
    (tmp_path / "images").mkdir()
    return draw_own_images(tmp_path / "images")


def prepare_folder(folder, out, **changed):
    options = {"folder": str(folder)}
    changed = {"conversion": Conversion(), **changed}
    return prepare(Preparation("folder", options, "Ours", list_parts("folder", options), **changed), out, 0)


def test_a_source_that_moved_is_the_same(tmp_path, images):
    before = prepare_folder(images, tmp_path / "data")
    moved = images.rename(tmp_path / "moved")
    assert prepare_folder(f"{moved}/", tmp_path / "data") == before
    (moved / "00.txt").write_text("another caption")
    with pytest.raises(UserError, match=f"{tmp_path / 'data'} .*--out"):
        prepare_folder(moved, tmp_path / "data")


def drop_all(folder, out):
    prepare_folder(folder, out, conversion=Conversion(filters=Filters(least_side=1000)))


def find_too_much_bad(folder, out):
    spoilt = folder.parent / "spoilt"
    spoilt.mkdir()
    for number in range(4):
        (spoilt / f"{number}.png").write_bytes((folder / f"0{number}.png").read_bytes() if number else b"no image")
        (spoilt / f"{number}.txt").write_text(f"image {number}")
    prepare_folder(spoilt, out)


@pytest.mark.parametrize("fail", [drop_all, find_too_much_bad])
def test_after_a_start_that_failed_the_corrected_command_prepares(tmp_path, images, fail):
    whole = prepare_folder(images, tmp_path / "whole")
    with pytest.raises(UserError):
        fail(images, tmp_path / "data")
    made = prepare_folder(images, tmp_path / "data")
    assert made == whole
    assert json.loads((tmp_path / "data" / "job.json").read_text())["conversion"]["filters"]["least_side"] == 1
    assert not (tmp_path / "data" / "unfit.json").exists()


def test_parts_of_an_interrupted_job_are_kept_when_another_command_fails(tmp_path, images, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("imagen_jax.data.preparation.preparation.assemble", interrupt)
        with pytest.raises(KeyboardInterrupt):
            prepare_folder(images, tmp_path / "data")
    with pytest.raises(UserError, match=f"{tmp_path / 'data'} .*conversion.*--out"):
        drop_all(images, tmp_path / "data")
    assert list((tmp_path / "data" / "parts").glob("*/report.json"))
    prepare_folder(images, tmp_path / "data")


def test_options_that_name_a_path_are_known_by_their_types():
    names = {
        (source, name)
        for source, of in PARTED_SOURCES.items()
        for name in inspect.signature(of.list_all).parameters
        if name in ("folder", "table", "images")
    }
    assert len(names) >= 6
    for source, name in names:
        assert without_paths(source, {name: "x", "caption": "y"}) == {"caption": "y"}, (source, name)
