"""Published weights are found by flag or in their folder, and have the published checksum."""

import hashlib

import pytest

from imagen_jax.errors import UserError
from imagen_jax.weights.known_files import KnownFile, find_known_file, weights_folder

CONTENT = b"weights"
KNOWN = KnownFile("a network", "network.pth", "https://example.org/network.pth", hashlib.sha256(CONTENT).hexdigest())


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("IMAGEN_JAX_WEIGHTS", str(tmp_path))
    return tmp_path


def test_the_published_file_is_found_in_its_folder(folder):
    (folder / KNOWN.name).write_bytes(CONTENT)
    assert find_known_file("", KNOWN, "network_weights") == (folder / KNOWN.name, KNOWN.sha256)


def test_without_the_variable_the_folder_is_in_the_cache_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("IMAGEN_JAX_WEIGHTS", raising=False)
    monkeypatch.setenv("IMAGEN_JAX_CACHE", str(tmp_path))
    assert weights_folder() == tmp_path / "weights"


def test_a_home_folder_may_be_written_with_a_tilde(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("IMAGEN_JAX_WEIGHTS", "~/kept")
    assert weights_folder() == tmp_path / "kept"


def test_a_missing_file_gives_the_address_the_checksum_the_path_and_the_flag(folder):
    with pytest.raises(UserError) as caught:
        find_known_file("", KNOWN, "network_weights")
    for part in (KNOWN.url, KNOWN.sha256, str(folder / KNOWN.name), "--network_weights=FILE"):
        assert part in str(caught.value)


def test_another_file_of_that_name_is_refused(folder):
    (folder / KNOWN.name).write_bytes(b"others")
    with pytest.raises(UserError, match=rf"{KNOWN.name} .*{KNOWN.sha256}.*{KNOWN.url}.*--network_weights"):
        find_known_file("", KNOWN, "network_weights")


def test_another_file_may_be_named_and_has_its_own_checksum(tmp_path):
    file = tmp_path / "mine.pth"
    file.write_bytes(b"others")
    found = find_known_file(str(file), KNOWN, "network_weights")
    assert found == (file, hashlib.sha256(b"others").hexdigest())


def test_a_missing_named_file_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"--network_weights=.*none\.pth"):
        find_known_file(str(tmp_path / "none.pth"), KNOWN, "network_weights")


def test_a_folder_is_no_file_of_weights(tmp_path):
    with pytest.raises(UserError, match=rf"{tmp_path} .*--network_weights"):
        find_known_file(str(tmp_path), KNOWN, "network_weights")


def test_a_file_in_a_bucket_is_copied(bucket, fake_buckets, capsys):
    (bucket / KNOWN.name).write_bytes(CONTENT)
    found = find_known_file(str(bucket / KNOWN.name), KNOWN, "network_weights")
    assert found.sha256 == KNOWN.sha256 and found.path.read_bytes() == CONTENT
    with pytest.raises(UserError, match=r"--network_weights=.*none\.pth"):
        find_known_file(str(bucket / "none.pth"), KNOWN, "network_weights")
