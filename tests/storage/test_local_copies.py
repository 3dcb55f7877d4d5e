"""Copies of what lies in a bucket: made once, made again when it changes, never half."""

import errno
import os
import pathlib
import re

import pytest

from imagen_jax.errors import ForNowError, UserError
from imagen_jax.storage.local_copies import cache_folder, local_copy, local_folder, put_in_bucket, working_folder
from imagen_jax.storage.paths import write_whole


def reads(fake_buckets):
    return [line for line in fake_buckets.log if line.startswith("GET /download")]


def test_what_is_of_this_machine_is_its_own_copy(tmp_path):
    assert local_copy(tmp_path / "x") == tmp_path / "x" and local_folder(tmp_path) == tmp_path


def test_an_object_is_copied_once_and_printed_in_one_line(bucket, fake_buckets, capsys):
    write_whole(bucket / "weights" / "model.safetensors", b"x" * 1000)
    fake_buckets.log.clear()
    copy = local_copy(bucket / "weights" / "model.safetensors")
    assert copy.read_bytes() == b"x" * 1000 and copy.is_relative_to(cache_folder())
    (line,) = capsys.readouterr().out.splitlines()
    assert all(fact in line for fact in ("model.safetensors", f"{bucket}/weights", str(copy.parent)))
    assert local_copy(bucket / "weights" / "model.safetensors") == copy
    assert len(reads(fake_buckets)) == 1 and capsys.readouterr().out == ""


def test_a_folder_is_copied_whole_and_only_what_changed_again(bucket, fake_buckets, capsys):
    for name in ("a", "b", "deep/c"):
        write_whole(bucket / "data" / name, name.encode())
    folder = local_folder(bucket / "data")
    assert (folder / "deep" / "c").read_bytes() == b"deep/c" and "3 files" in capsys.readouterr().out
    opened = (folder / "b").open("rb")
    write_whole(bucket / "data" / "b", b"B")  # as long as before
    fake_buckets.log.clear()
    assert local_folder(bucket / "data") == folder and (folder / "b").read_bytes() == b"B"
    assert [line.rpartition("/")[2] for line in reads(fake_buckets)] == ["b"]
    with opened:
        assert opened.read() == b"b", "what is open stays as it was"


@pytest.mark.parametrize("spoil", [lambda file: file.write_bytes(b"short"), lambda file: os.utime(file)])
def test_a_copy_that_was_changed_is_copied_again(bucket, spoil):
    write_whole(bucket / "a", b"content")
    copy = local_copy(bucket / "a")
    spoil(copy)
    assert local_copy(bucket / "a").read_bytes() == b"content"


def test_a_copy_that_was_interrupted_is_none(bucket, monkeypatch):
    write_whole(bucket / "a", b"content")

    def interrupt(file, target):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", interrupt)
        with pytest.raises(KeyboardInterrupt):
            local_copy(bucket / "a")
    assert [path for path in cache_folder().rglob("*") if path.is_file()] == []
    assert local_copy(bucket / "a").read_bytes() == b"content"


@pytest.mark.parametrize(
    ("number", "kind", "fix"),
    [
        (errno.ENOSPC, UserError, "make room"),
        (errno.EDQUOT, UserError, "make room"),
        (errno.EACCES, UserError, "make it writable"),
        (errno.EROFS, UserError, ""),
        (errno.EIO, ForNowError, "run the same command again"),
    ],
)
def test_a_disk_that_refuses_is_a_sentence_with_its_own_fix(bucket, monkeypatch, number, kind, fix):
    write_whole(bucket / "a", b"content")

    def refuse(file, target):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(UserError) as raised:
        local_copy(bucket / "a")
    assert type(raised.value) is kind
    told = str(raised.value)
    assert os.strerror(number) in told and fix in told and "IMAGEN_JAX_CACHE" in told
    assert ("make room" in told) == (number in (errno.ENOSPC, errno.EDQUOT))


def test_what_is_made_here_is_its_own_copy(bucket, fake_buckets):
    file = working_folder(bucket / "set" / "x") / "made"
    file.write_bytes(b"made")
    put_in_bucket(file, bucket / "set" / "x")
    fake_buckets.log.clear()
    assert local_copy(bucket / "set" / "x").read_bytes() == b"made" and reads(fake_buckets) == []


def test_the_cache_is_where_the_environment_says(monkeypatch):
    monkeypatch.setenv("IMAGEN_JAX_CACHE", "some/where")
    assert cache_folder() == pathlib.Path("some/where")
    monkeypatch.delenv("IMAGEN_JAX_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "other")
    assert cache_folder() == pathlib.Path("other/imagen-jax")


@pytest.mark.parametrize("name", ["../../../outside", "/outside", "a/../../outside", "a//b"])
def test_an_object_whose_name_leads_out_of_its_folder_is_not_copied(bucket, fake_buckets, name):
    """A bucket may have objects of any name, and the copy of a stranger's object could be anywhere on this machine."""
    write_whole(bucket / "data" / "a", b"a")
    name_of_bucket, below = bucket.parts[2], "/".join([*bucket.parts[3:], "data"])
    objects = fake_buckets.objects(name_of_bucket)
    objects[f"{below}/{name}"] = objects[f"{below}/a"]
    with pytest.raises(UserError, match=re.escape(f"{bucket}/data")):
        local_folder(bucket / "data")


def test_a_path_that_leads_out_of_its_bucket_has_no_copy(bucket):
    with pytest.raises(UserError, match=re.escape(f"{bucket}/..")):
        local_copy(bucket / ".." / ".." / "x")
