"""Paths of both kinds: what a text names, and files that are whole or not there."""

import importlib.util
import os
import pathlib
import re

import pytest

from imagen_jax.errors import UserError
from imagen_jax.storage import buckets
from imagen_jax.storage.paths import (
    absolute,
    array_store,
    create_folder,
    files_below,
    files_in,
    in_bucket,
    list_below,
    read_files,
    read_ranges,
    remove_folder,
    same_place,
    size_of,
    split_places,
    to_path,
    write_whole,
    writing,
)


@pytest.fixture(params=["disk", "bucket"])
def folder(request, tmp_path):
    """A folder of either kind."""
    return tmp_path if request.param == "disk" else request.getfixturevalue("bucket") / "some" / "folder"


def test_a_bucket_stays_a_bucket(bucket):
    path = to_path(f"{bucket}/runs/base")
    assert str(path) == f"{bucket}/runs/base" == str(absolute(path)) == str(to_path(path)) == str(path.expanduser())
    assert in_bucket(path) and path.name == "base" and path.parent.parent == bucket


def test_what_is_of_this_machine_stays_so(tmp_path):
    assert to_path("runs/base") == pathlib.Path("runs/base") and not in_bucket(to_path("runs/base"))
    assert absolute(to_path("runs")) == pathlib.Path.cwd() / "runs"
    assert to_path(str(tmp_path)) == tmp_path == to_path(tmp_path) and isinstance(to_path(tmp_path), pathlib.Path)


@pytest.mark.parametrize("text", ["s3://name/x", "https://example.org/x", "file:///x", "gs:/name/x"])
def test_other_schemes_are_errors(text):
    with pytest.raises(UserError, match=re.escape(text[:4])):
        to_path(text)
    with pytest.raises(UserError, match=re.escape(text[:4])):
        to_path(pathlib.Path(text))


@pytest.mark.parametrize("rest", ["", "/x", "A/x", "a b/x", "x"])
def test_what_can_be_no_bucket_is_refused(rest):
    with pytest.raises(UserError, match=re.escape(f"{buckets.PREFIX}{rest}")):
        to_path(buckets.PREFIX + rest)


def test_the_error_without_gcsfs_has_the_command_to_install_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'gcsfs.*pip install .*\[gcs\]"'):
        to_path(f"{buckets.PREFIX}some-bucket/x")


def test_files_are_written_whole_listed_and_read(folder):
    create_folder(folder / "deep")
    for name in ("b.txt", "a.txt", "deep/c.txt"):
        write_whole(folder / name, name.encode() * 3)
    assert [path.name for path in files_in(folder)] == ["a.txt", "b.txt"]
    assert files_in(folder / "none") == []
    assert [path.relative_to(folder).as_posix() for path in files_below(folder)] == ["a.txt", "b.txt", "deep/c.txt"]
    assert read_files([folder / "b.txt", folder / "deep/c.txt"]) == [b"b.txt" * 3, b"deep/c.txt" * 3]
    assert size_of(folder / "a.txt") == 15
    assert read_ranges(folder / "a.txt", [0, 5, 12], 4) == [b"a.tx", b"a.tx", b"txt"]
    remove_folder(folder / "deep")
    assert [path.name for path in files_below(folder)] == ["a.txt", "b.txt"]


def test_what_systems_add_is_not_listed(folder):
    for name in ("a.txt", "._a.txt", ".DS_Store", "__MACOSX/a.txt", "deep/b.txt", "deep/._b.txt", "@eaDir/b.txt"):
        create_folder((folder / name).parent)
        write_whole(folder / name, b"x")
    assert [path.relative_to(folder).as_posix() for path in list_below(folder).files] == ["a.txt", "deep/b.txt"]
    assert list_below(folder).left_out == {} and [path.name for path in files_in(folder)] == ["a.txt"]


def names_in(listing, folder):
    return [path.relative_to(folder).as_posix() for path in listing.files]


def test_links_to_folders_are_followed_and_every_file_is_listed_once(tmp_path):
    folder, other = tmp_path / "folder", tmp_path / "other"
    for name in ("folder/a.txt", "folder/deep/b.txt", "other/c.txt", "other/more/d.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    links = {"0-other": other, "1-more": other / "more", "2-deep": folder / "deep", "deep/again": other}
    for name, target in links.items():
        (folder / name).symlink_to(target)
    (folder / "file.txt").symlink_to(other / "c.txt")
    listing = list_below(folder)
    assert names_in(listing, folder) == ["0-other/c.txt", "0-other/more/d.txt", "a.txt", "deep/b.txt", "file.txt"]
    assert listing.left_out == {} and list(files_below(folder)) == list(listing.files)


def test_links_that_go_round_or_nowhere_are_left_out(tmp_path):
    folder = tmp_path / "folder"
    (folder / "deep").mkdir(parents=True)
    (folder / "a.txt").write_text("a")
    (tmp_path / "beside.txt").write_text("not below the folder")
    targets = {"above": "..", "deep/round": "..", "deep/self": "self", "nowhere.txt": "gone.txt", "root": "/"}
    for name, target in targets.items():
        (folder / name).symlink_to(target)
    listing = list_below(folder)
    assert names_in(listing, folder) == ["a.txt"]
    reasons = {path.relative_to(folder).as_posix(): reason for path, reason in listing.left_out.items()}
    assert sorted(reasons) == ["above", "deep/self", "nowhere.txt", "root"]
    assert str(tmp_path) in reasons["above"]


def test_a_folder_that_may_not_be_listed_is_left_out(tmp_path, monkeypatch):
    (tmp_path / "closed").mkdir()
    (tmp_path / "a.txt").write_text("a")

    def scandir(path, listed=os.scandir):
        if pathlib.Path(path).name == "closed":
            raise PermissionError(13, "Permission denied")
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    listing = list_below(tmp_path)
    assert names_in(listing, tmp_path) == ["a.txt"] and listing.left_out == {tmp_path / "closed": "Permission denied"}


def test_a_page_of_a_listing_is_not_all_of_it(bucket):
    names = [f"{number:02d}" for number in range(23)]
    for name in names:
        (bucket / "many" / name).write_bytes(b"x")
    assert [path.name for path in files_in(bucket / "many")] == names
    assert sorted(path.name for path in (bucket / "many").iterdir()) == names


def test_a_mark_changes_with_every_write(folder):
    create_folder(folder)
    write_whole(folder / "a.png", b"one")
    (before,) = files_below(folder).values()
    write_whole(folder / "a.png", b"two")
    (after,) = files_below(folder).values()
    assert before != after


def test_what_is_not_written_to_its_end_is_not_there(folder):
    create_folder(folder)
    write_whole(folder / "a.txt", b"old")

    def write_half():
        with writing(folder / "a.txt") as file:
            file.write_bytes(b"ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert read_files(files_in(folder)) == [b"old"]


def test_a_large_file_goes_in_chunks(bucket, tmp_path):
    content = bytes(range(256)) * (1 << 14)
    (tmp_path / "large").write_bytes(content)
    with (bucket / "large").open("wb") as file:
        for start in range(0, len(content), 1 << 20):
            file.write(content[start : start + (1 << 20)])
    assert (bucket / "large").read_bytes() == content


def test_what_others_write_is_seen_at_once(bucket, fake_buckets):
    (bucket / "run" / "one").write_bytes(b"1")
    assert [path.name for path in files_in(bucket / "run")] == ["one"] and not (bucket / "run" / "two").exists()
    fake_buckets.put(bucket.parts[2], "run/two", b"2", {})
    assert (bucket / "run" / "two").exists() and [path.name for path in (bucket / "run").iterdir()] == ["one", "two"]


def test_a_bucket_that_is_not_there_is_never_made(fake_buckets, bucket):
    with pytest.raises(UserError, match="absent"):
        create_folder(to_path(f"{buckets.PREFIX}absent/runs"))
    assert "absent" not in fake_buckets.buckets


def test_tensorstore_gets_the_driver_and_the_path_of_a_folder(bucket, tmp_path):
    assert array_store(bucket / "a" / "b") == {"driver": "gcs", "bucket": bucket.parts[2], "path": "a/b/"}
    assert array_store(tmp_path) == {"driver": "file", "path": str(tmp_path)}


@pytest.mark.parametrize(
    ("text", "paths"),
    [
        ("a", ["a"]),
        ("a,b", ["a", "b"]),
        ("a, b", ["a", "b"]),
        ("one,two", ["one,two"]),
        ("a,one,two", ["a", "one,two"]),
        ("one,two,b", ["one,two", "b"]),
        ("one,two,one,two,three", ["one,two", "one,two,three"]),
        ("", [""]),
    ],
)
def test_text_is_split_at_commas_but_not_within_the_name_of_an_existing_path(tmp_path, monkeypatch, text, paths):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b", "one,two", "one,two,three"):
        (tmp_path / name).mkdir()
    assert split_places(text) == paths


def test_paths_in_buckets_are_split_too(bucket):
    write_whole(bucket / "one,two" / "file", b"x")
    assert split_places(f"{bucket}/a,{bucket}/one,two") == [f"{bucket}/a", f"{bucket}/one,two"]


def test_one_path_is_the_same_however_it_is_written(tmp_path, monkeypatch, bucket):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "link").symlink_to("a")
    for other in ("a/", "./a", f"{tmp_path}/a", "b/../a", "link"):
        assert same_place("a", other), other
    assert not same_place("a", "b") and not same_place("a", "") and same_place("", "") and same_place(None, None)
    assert same_place(f"{bucket}/x", f"{bucket}/x/") and not same_place(f"{bucket}/x", f"{bucket}/y")
