"""Names that files and buckets tell lead to files below a folder, or are refused."""

import pytest

from imagen_jax.storage.names import stays_below


@pytest.mark.parametrize("name", ["a", "a/b.c", "..a", "a..", ".a", "é/猫"])
def test_names_of_files_below(name):
    assert stays_below(name)


@pytest.mark.parametrize(
    "name", ["", "/", "/a", "..", "a/../b", "./a", "a//b", "a/", "a\\..\\b", "a\0", "\udcff", "x" * 256, None, 3, ["a"]]
)
def test_names_that_lead_elsewhere(name):
    assert not stays_below(name)
