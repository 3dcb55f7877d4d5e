"""Tables as people have them: absolute paths, images within Parquet, UTF-16; and what they may not lead to."""

import csv
import json
import os
import pickle

import numpy as np
import pytest

from imagen_jax.data.preparation.builder import prepare_data
from imagen_jax.data.sources.parquet_rows import read_parquet
from imagen_jax.data.sources.parted_sources import PARTED_SOURCES
from imagen_jax.data.sources.records import Damage, Record
from imagen_jax.data.sources.sources import SOURCES
from imagen_jax.data.sources.tables import folder_parts, table_parts
from imagen_jax.data.sources.tar_shards import tar_shard_parts
from imagen_jax.errors import UserError
from tests.data.sources.test_tables import KINDS, arrow, damages, keys, read_all, write_table
from tests.data.sources.test_tar_shards import write_tar
from tests.storage.uploads import upload

WORDS = ["apple", "bär", "猫", "dog"]
FILES = {word: np.random.default_rng(number).bytes(40 + number) for number, word in enumerate(WORDS)}


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "data" / "images"
    (folder / "more").mkdir(parents=True)
    for word, content in FILES.items():
        (folder / "more" / f"{word}.png").write_bytes(content)
    (tmp_path / "secret.png").write_bytes(b"secret")
    return folder


def captions_of(found):
    return [one.captions for one in found if isinstance(one, Record)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("start", ["the folder", "the root", "a link", "the folder's target", "beside the table"])
def test_absolute_paths_are_read_within_the_folder_that_is_named(tmp_path, images, kind, start):
    link = tmp_path / "link"
    link.symlink_to(images)
    named = {"the folder": images, "the root": "/", "a link": link, "the folder's target": link}
    written = {"a link": link}.get(start, images)
    rows = [{"image": f"{written}/more/{word}.png", "caption": word} for word in WORDS]
    table = write_table(images if start == "beside the table" else tmp_path, kind, rows)
    parts = table_parts(table, named.get(start, ""), images_per_part=3)
    found = read_all(pickle.loads(pickle.dumps(parts)))
    assert damages(found) == [] and captions_of(found) == [(word,) for word in WORDS]
    assert [one.encoded for one in found] == list(FILES.values())
    below = str(images).lstrip("/") + "/" if start == "the root" else ""
    assert keys(found) == [f"{below}more/{word}.png" for word in WORDS]


OUTSIDE = [
    "{root}/secret.png", "{images}/../../secret.png", "{images}/more/../../../secret.png", "{images}extra/secret.png",
    "{images}//../../secret.png", "/etc/passwd", "//etc/passwd", "{images}/../images/../../secret.png", "../secret.png",
    "file:///etc/passwd", "gs:/" "/bucket/x.png", "/", "{images}",
]  # fmt: skip


@pytest.mark.parametrize("path", OUTSIDE)
def test_no_path_leads_out_of_the_folder_that_is_named(tmp_path, images, path):
    (tmp_path / "data" / "imagesextra").mkdir()
    (tmp_path / "data" / "imagesextra" / "secret.png").write_bytes(b"secret")
    written = path.format(root=tmp_path, images=images)
    tables = [write_table(tmp_path, "jsonl", [{"image": written, "caption": "a"}])]
    tables.append(write_table(tmp_path, "parquet", [{"image": {"bytes": None, "path": written}, "caption": "a"}]))
    tables.append(tmp_path / "object.jsonl")
    tables[-1].write_text(json.dumps({"image": {"path": written}, "caption": "a"}))
    for table in tables:
        (damage,) = read_all(table_parts(table, images))
        assert damage.reason in ("image is outside the folder", "no image file"), damage
        if damage.reason == "image is outside the folder":
            assert str(images) in damage.detail and "--option=images=" in damage.detail


def test_absolute_paths_of_a_bucket(tmp_path, images, bucket):
    folder = upload(images, bucket / "images")
    rows = [{"image": f"{folder}/more/{word}.png", "caption": word} for word in WORDS]
    rows.append({"image": f"{bucket}/secret.png", "caption": "a"})
    found = read_all(table_parts(write_table(tmp_path, "jsonl", rows), folder))
    assert [one.encoded for one in found[:-1]] == list(FILES.values())
    assert [one.reason for one in found if isinstance(one, Damage)] == ["image is outside the folder"]


def binary(pyarrow, contents, paths):
    return pyarrow.array(contents, pyarrow.binary())


def large_binary(pyarrow, contents, paths):
    return pyarrow.array(contents, pyarrow.large_binary())


def struct(pyarrow, contents, paths):
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    rows = [{"bytes": content, "path": path} for content, path in zip(contents, paths, strict=True)]
    return pyarrow.array(rows, kind)


def struct_of_bytes(pyarrow, contents, paths):
    return pyarrow.array([{"bytes": content} for content in contents], pyarrow.struct([("bytes", pyarrow.binary())]))


@pytest.mark.parametrize("make", [binary, large_binary, struct, struct_of_bytes])
@pytest.mark.parametrize("paths", ["the same", "none", "own"])
@pytest.mark.parametrize("images_per_part", [1, 3, 100])
def test_parquet_may_hold_the_images_themselves(tmp_path, make, paths, images_per_part):
    pyarrow, parquet = arrow()
    stored_paths = {"the same": ["image.png"] * 4, "none": [None] * 4, "own": [f"{word}.png" for word in WORDS]}[paths]
    column = make(pyarrow, list(FILES.values()), stored_paths)
    table = pyarrow.table({"image": column, "caption": WORDS, "score": [1, 2, 3, 4], "other": [b"x"] * 4})
    parquet.write_table(table, tmp_path / "t.parquet", row_group_size=3)
    parts = table_parts(tmp_path / "t.parquet", images_per_part=images_per_part)
    assert len(parts) == -(-4 // images_per_part)
    found = read_all(pickle.loads(pickle.dumps(parts)))
    assert [one.encoded for one in found] == list(FILES.values()) and captions_of(found) == [(word,) for word in WORDS]
    assert keys(found) == [f"row {number}" for number in range(1, 5)]
    assert [one.metadata["score"] for one in found] == [1, 2, 3, 4]
    assert [one.metadata.get("image.path") for one in found] == (stored_paths if make is struct else [None] * 4)
    before = [part.fingerprint for part in parts]
    os.utime(tmp_path / "t.parquet", ns=(1, 1))
    after = [part.fingerprint for part in table_parts(tmp_path / "t.parquet", images_per_part=images_per_part)]
    assert not set(before) & set(after), "images that are written again are another data set"


def test_a_struct_may_have_paths_alone_or_neither(tmp_path, images):
    pyarrow, parquet = arrow()
    paths = [f"more/{WORDS[0]}.png", str(images / "more" / f"{WORDS[1]}.png"), "nowhere.png", None]
    rows = [{"bytes": None, "path": path} for path in paths] + [None, {"bytes": b"", "path": "x"}]
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    table = pyarrow.table({"image": pyarrow.array(rows, kind), "caption": ["a"] * 6})
    parquet.write_table(table, tmp_path / "t.parquet")
    found = read_all(table_parts(tmp_path / "t.parquet", images))
    assert [one.encoded for one in found if isinstance(one, Record)] == [FILES[WORDS[0]], FILES[WORDS[1]]]
    assert damages(found) == [
        ("row 3", "no image file"), ("row 4", "no image file"), ("row 5", "no image file"), ("row 6", "image is empty"),
    ]  # fmt: skip
    only_paths = pyarrow.array([{"path": path} for path in paths[:2]])
    parquet.write_table(pyarrow.table({"image": only_paths, "caption": ["a"] * 2}), tmp_path / "t.parquet")
    assert keys(read_all(table_parts(tmp_path / "t.parquet", images))) == [f"more/{word}.png" for word in WORDS[:2]]


def test_listing_reads_no_images(tmp_path):
    pyarrow, parquet = arrow()
    for make in (binary, struct):
        table = pyarrow.table({"image": make(pyarrow, [b"x" * 1000] * 4, WORDS), "caption": WORDS})
        parquet.write_table(table, tmp_path / "t.parquet")
        rows = list(read_parquet(tmp_path / "t.parquet", None, ("image", "caption"), with_bytes=False))
        assert [row.values["image"].content for row in rows] == [None] * 4
        assert [row.values["image"].path for row in rows] == (WORDS if make is struct else [""] * 4)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be"])
@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl"])
@pytest.mark.parametrize("images_per_part", [1, 2, 100])
def test_text_is_utf8_or_utf16_with_its_mark(tmp_path, images, encoding, kind, images_per_part):
    # Characters of which a half is a line feed, and one of two units.
    captions = ["Ċ 上 ઊ\u0a0a", 'two\n"lines"', "\U0001f60a", "ü"]
    rows = [{"image": f"more/{word}.png", "caption": text} for word, text in zip(WORDS, captions, strict=True)]
    text = write_table(tmp_path, kind, rows).read_bytes().decode()
    if kind == "jsonl":
        text = "".join(f"{json.dumps(row, ensure_ascii=False)}\r\n" for row in rows)
    mark = b"\xfe\xff" if encoding == "utf-16-be" else b""
    (tmp_path / f"table.{kind}").write_bytes(mark + text.encode(encoding))
    found = read_all(table_parts(tmp_path / f"table.{kind}", images, images_per_part=images_per_part))
    assert [one.captions for one in found] == [(caption,) for caption in captions]


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf16_that_is_truncated_or_broken_is_damage(tmp_path, images, encoding):
    mark = "\ufeff".encode(encoding)
    lines = "image,caption\nmore/apple.png,a\nmore/dog.png,\ud800\n"
    whole = mark + lines.encode(encoding, "surrogatepass")
    for missing in (0, 1, 2, 3, 5):
        (tmp_path / "t.csv").write_bytes(whole[: len(whole) - missing])
        found = read_all(table_parts(tmp_path / "t.csv", images))
        assert keys(found) == ["more/apple.png"] and len(found) == 2, missing


def test_a_line_of_utf16_without_end_is_passed_over(tmp_path, images, monkeypatch):
    monkeypatch.setattr("imagen_jax.data.sources.table_rows.MAX_LINE_LENGTH", 100)
    rows = [{"image": "more/apple.png", "caption": caption} for caption in ("a", "Ċ" * 100, "x" * 1000)]
    rows.append({"image": "more/dog.png", "caption": "b"})
    lines = "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows)
    (tmp_path / "t.jsonl").write_bytes(lines.encode("utf-16"))
    found = read_all(table_parts(tmp_path / "t.jsonl", images))
    assert keys(found) == ["more/apple.png", "more/dog.png"]
    assert damages(found) == [("line 2", "row is too long"), ("line 3", "row is too long")]


@pytest.mark.parametrize(
    ("name", "content", "facts"),
    [
        ("t.csv", "image,caption\na,b\n".encode("utf-16-le"), r"t\.csv .*UTF-8"),
        ("t.csv", b"image;caption\na;b\n", r"t\.csv .*';'.*commas"),
        ("t.csv", b"image\tcaption\na\tb\n", r"t\.csv .*tabs.*commas.*\.tsv"),
        ("t.tsv", b"image,caption\na,b\n", r"t\.tsv .*commas.*tabs.*\.csv"),
    ],
)
def test_a_table_of_another_form_is_refused_with_the_reason(tmp_path, images, name, content, facts):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=facts):
        table_parts(tmp_path / name, images)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_captions_beside_images_may_be_utf16_too(tmp_path, images, encoding):
    (images / "more" / "apple.txt").write_bytes("Äpfel".encode(encoding))
    (tmp_path / "shards").mkdir()
    write_tar(tmp_path / "shards" / "0.tar", [("1.jpg", b"x"), ("1.txt", "Äpfel".encode(encoding))])
    for parts in (folder_parts(images), tar_shard_parts(tmp_path / "shards")):
        assert captions_of(read_all(parts)) == [("Äpfel",)]


@pytest.mark.parametrize("name", sorted(set(PARTED_SOURCES) - set(SOURCES)))
def test_the_error_for_a_source_that_is_prepared_first_has_the_command(tmp_path, name):
    with pytest.raises(UserError, match=rf"prepare_data --source={name} .*data\.source=prepared"):
        prepare_data(name, 8, tmp_path)


def test_an_unknown_source_lists_prepared_too(tmp_path):
    with pytest.raises(UserError, match=r"'xyz'.*folder, openmoji, prepared"):
        prepare_data("xyz", 8, tmp_path)
    with pytest.raises(UserError, match=r"'preprared'.*'prepared'"):
        prepare_data("preprared", 8, tmp_path)


def test_a_table_of_excel(tmp_path, images):
    """As "Unicode text" of Excel is: UTF-16, tabs, quoted where there is a comma."""
    with (tmp_path / "t.tsv").open("w", encoding="utf-16", newline="") as stream:
        writer = csv.writer(stream, "excel-tab")
        writer.writerows([["image", "caption"], ["more/dog.png", 'a "dog", sitting']])
    (record,) = read_all(table_parts(tmp_path / "t.tsv", images))
    assert record.captions == ('a "dog", sitting',)
