"""Names in files and buckets are paths below a folder, or are rejected."""

import pytest

from imagen_jax.storage.names import is_of_system, stays_below


@pytest.mark.parametrize("name", ["a", "a/b.c", "..a", "a..", ".a", "é/猫"])
def test_names_of_files_below(name):
    assert stays_below(name)


@pytest.mark.parametrize(
    "name", ["", "/", "/a", "..", "a/../b", "./a", "a//b", "a/", "a\\..\\b", "a\0", "\udcff", "x" * 256, None, 3, ["a"]]
)
def test_names_that_lead_elsewhere(name):
    assert not stays_below(name)


@pytest.mark.parametrize(
    "name",
    ["._x.png", "a/._x.png", "__MACOSX/._x.png", "__MACOSX/x.png", ".DS_Store", "a/.DS_Store", "Thumbs.db", "THUMBS.DB"]
    + ["desktop.ini", "@eaDir/x.jpg/SYNOPHOTO_THUMB_M.jpg", "a/$RECYCLE.BIN/x.png", ".Trash-1000/files/x.png"],
)  # fmt: skip
def test_files_that_systems_add_are_recognised(name):
    assert is_of_system(name)


@pytest.mark.parametrize("name", ["x.png", ".x.png", "_x.png", "a._x.png", "MACOSX/x.png", "Thumbs.png", "..x", "@e/x"])
def test_what_people_keep(name):
    assert not is_of_system(name)
