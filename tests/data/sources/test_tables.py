"""Tables and folders of a user's own images, written by hand, by csv and by pyarrow."""

import csv
import importlib
import json
import os
import pickle
import random
import tracemalloc

import numpy as np
import pytest

from imagen_jax.data.sources.parquet_rows import read_parquet
from imagen_jax.data.sources.records import Damage, Record
from imagen_jax.data.sources.rows import RowPosition
from imagen_jax.data.sources.tables import folder_parts, table_parts
from imagen_jax.errors import UserError
from tests.storage.uploads import upload

NAMES = [f"{word}.png" for word in ("apple", "bear", "cat", "dog", "elk", "more/fox", "more/goat")]
KINDS = ["jsonl", "csv", "tsv", "parquet"]


def content_of(name):
    return np.random.default_rng(NAMES.index(name)).bytes(50)


@pytest.fixture
def images(tmp_path):
    """Seven files below a folder ``images``."""
    folder = tmp_path / "images"
    (folder / "more").mkdir(parents=True)
    for name in NAMES:
        (folder / name).write_bytes(content_of(name))
    return folder


def arrow():
    pytest.importorskip("pyarrow", reason="tables of Parquet need pyarrow, of the extra 'parquet'")
    return importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")


def write_table(folder, kind, rows, **options):
    """Writes rows with the same columns as a table."""
    file = folder / f"table.{kind}"
    if kind == "parquet":
        pyarrow, parquet = arrow()
        parquet.write_table(pyarrow.Table.from_pylist(rows), file, **options)
    elif kind == "jsonl":
        file.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    else:
        with file.open("w", encoding="utf-8", newline="") as stream:
            writer = csv.DictWriter(stream, list(rows[0]), delimiter="," if kind == "csv" else "\t")
            writer.writeheader()
            writer.writerows(rows)
    return file


def write_lines(folder, *lines):
    file = folder / "table.jsonl"
    file.write_bytes(b"".join(line if isinstance(line, bytes) else f"{json.dumps(line)}\n".encode() for line in lines))
    return file


def row_of(name, caption="a picture", **others):
    return {"image": name, "caption": caption} | others


def read_all(parts):
    return [found for part in parts for found in part.read()]


def damages(found):
    return [(one.key, one.reason) for one in found if isinstance(one, Damage)]


def keys(found):
    return [one.key for one in found if isinstance(one, Record)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("images_per_part", [1, 3, 1000])
def test_every_kind_of_table_gives_its_images_in_order(tmp_path, images, kind, images_per_part):
    captions = [f'A "{name}",\nover\ttwo lines; Ünïcode' for name in NAMES]
    rows = [row_of(name, caption, author="ann") for name, caption in zip(NAMES, captions, strict=True)]
    table = write_table(tmp_path, kind, rows)
    parts = table_parts(table, images, images_per_part=images_per_part)
    assert len(parts) == -(-len(NAMES) // images_per_part)
    assert len({part.name for part in parts}) == len(parts)
    records = read_all(pickle.loads(pickle.dumps(parts)))
    assert keys(records) == NAMES
    assert [record.encoded for record in records] == [content_of(name) for name in NAMES]
    assert [record.captions for record in records] == [(caption,) for caption in captions]
    assert [record.concept for record in records] == [caption.casefold() for caption in captions]
    assert all(record.metadata == {"author": "ann"} for record in records)


def test_paths_start_from_the_table_and_columns_may_have_other_names(images):
    table = write_table(images, "jsonl", [{"file": "./more//fox.png", "text": "a fox", "caption": "not it"}])
    (record,) = read_all(table_parts(str(table), image_column="file", caption_column="text"))
    assert (record.key, record.captions, record.metadata) == ("more/fox.png", ("a fox",), {"caption": "not it"})


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("images_per_part", [1, 2, 3])
def test_rows_with_the_same_image_are_one_record_only_if_they_follow_each_other(
    tmp_path, images, kind, images_per_part
):
    names = [NAMES[number] for number in (0, 0, 1, 2, 2, 2, 0, 3, 1, 1, 4)]
    rows = [row_of(name, f"caption {number}", row=number) for number, name in enumerate(names)]
    found = read_all(table_parts(write_table(tmp_path, kind, rows), images, images_per_part=images_per_part))
    assert keys(found) == NAMES[:5]
    assert [one.captions for one in found if isinstance(one, Record)] == [
        ("caption 0", "caption 1"),
        ("caption 2",),
        ("caption 3", "caption 4", "caption 5"),
        ("caption 7",),
        ("caption 10",),
    ]
    assert [int(one.metadata["row"]) for one in found if isinstance(one, Record)] == [0, 2, 3, 7, 10]
    assert damages(found) == [("apple.png", "key appears twice"), ("bear.png", "key appears twice")]


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_row_may_hold_several_captions(tmp_path, images, kind):
    rows = [row_of("apple.png", ["one", " two "]), row_of("apple.png", ["three"]), row_of("bear.png", ["", "x"])]
    rows += [row_of("cat.png", []), row_of("dog.png", [""]), row_of("elk.png", None)]
    found = read_all(table_parts(write_table(tmp_path, kind, rows), images))
    assert [one.captions for one in found if isinstance(one, Record)] == [("one", "two", "three"), ("x",)]
    assert damages(found) == [
        ("cat.png", "no caption"),
        ("dog.png", "caption is empty"),
        ("elk.png", "no caption"),
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_wrong_with_an_image_is_named_and_the_others_are_read(tmp_path, images, kind):
    (images / "bear.png").write_bytes(b"")
    (tmp_path / "secret.png").write_bytes(b"not among the images")
    rows = [row_of(NAMES[0]), row_of("bear.png"), row_of("nowhere.png"), row_of("more"), row_of(f"{'x' * 300}.png")]
    rows += [row_of("../secret.png"), row_of("more/../../secret.png"), row_of(str(tmp_path / "secret.png"))]
    rows += [row_of("s3://elsewhere/x.png"), row_of(""), row_of("dog.png", "  "), row_of("more/../elk.png")]
    found = read_all(table_parts(write_table(tmp_path, kind, rows), images, images_per_part=5))
    assert keys(found) == ["apple.png", "elk.png"]
    assert damages(found) == [
        ("bear.png", "image is empty"),
        ("nowhere.png", "no image file"),
        ("more", "no image file"),
        (f"{'x' * 300}.png", "no image file"),
        ("../secret.png", "image is outside the folder"),
        (str(tmp_path / "secret.png"), "image is outside the folder"),
        ("s3:/elsewhere/x.png", "image is outside the folder"),
        ("row 10" if kind == "parquet" else "line 11" if kind != "jsonl" else "line 10", "no image file"),
        ("dog.png", "caption is empty"),
    ]


@pytest.mark.parametrize("images_per_part", [1, 2, 100])
def test_lines_that_are_no_rows_are_named_by_their_number(tmp_path, images, images_per_part):
    table = write_lines(
        tmp_path,
        b"\xef\xbb\xbf" + json.dumps(row_of("apple.png")).encode() + b"\r\n",
        b"{\n",
        b"\n",
        b"[1]\n",
        row_of("bear.png"),
        {"caption": "no image"},
        row_of("x\0.png"),
        row_of("\ud800.png"),
        b'{"image": "cat.png", "caption": "caf\xe9"}\n',
        row_of("dog.png", "\udfff"),
        row_of("elk.png", 7),
        {"image": "more/fox.png"},
        b"[" * 100_000 + b"\n",
        json.dumps(row_of("more/goat.png")).encode(),
    )
    found = read_all(table_parts(table, images, images_per_part=images_per_part))
    assert keys(found) == ["apple.png", "bear.png", "more/goat.png"]
    assert damages(found) == [
        ("line 2", "row is not JSON"),
        ("line 4", "row is not JSON"),
        ("line 6", "no image file"),
        ("x\0.png", "no image file"),
        (r"\ud800.png", "no image file"),
        ("cat.png", "caption is not UTF-8"),
        ("dog.png", "caption is not UTF-8"),
        ("elk.png", "no caption"),
        ("more/fox.png", "no caption"),
        ("line 13", "row is not JSON"),
    ]


@pytest.mark.parametrize("images_per_part", [1, 2, 100])
def test_csv_rows_that_do_not_fit_are_named(tmp_path, images, images_per_part):
    table = tmp_path / "table.csv"
    table.write_bytes(
        b"\xef\xbb\xbfimage,caption,size\r\n"
        b'apple.png,"over\r\nthree\n\nlines",1\r\n'
        b"\r\n"
        b"bear.png,no comma, or one,2\n"
        b"cat.png\n"
        b"dog.png,caf\xe9,3\n"
        b'elk.png,"closed" too early,4\n'
        b"more/fox.png,a fox,5\n"
        b'more/goat.png,"never closed,6\nlost,lost,7\n'
    )
    found = read_all(table_parts(table, images, images_per_part=images_per_part))
    assert [(one.key, one.captions, one.metadata) for one in found if isinstance(one, Record)] == [
        ("apple.png", ("over\r\nthree\n\nlines",), {"size": "1"}),
        ("more/fox.png", ("a fox",), {"size": "5"}),
    ]
    assert damages(found) == [
        ("line 7", "row does not fit the columns"),
        ("line 8", "row does not fit the columns"),
        ("dog.png", "caption is not UTF-8"),
        ("line 10", "row is not CSV"),
        ("line 12", "row is not CSV"),
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_parts_of_any_size_give_the_same_as_one(tmp_path, images, kind):
    generator = random.Random(KINDS.index(kind))
    for trial in range(10):
        rows = []
        for number in range(generator.randrange(1, 40)):
            name = generator.choice([*NAMES, f"{number}.png"])
            caption = "".join(generator.choice('ab ,"\t\n\r\u2028ü😀') for _ in range(generator.randrange(8)))
            rows += [row_of(name, caption, number=number)] * generator.choice([1, 1, 2])
        table = write_table(
            tmp_path, kind, rows, **({"row_group_size": generator.randrange(1, 9)} if kind == "parquet" else {})
        )
        whole = read_all(table_parts(table, images))
        for size in (1, 2, 7):
            assert read_all(table_parts(table, images, images_per_part=size)) == whole, trial


def test_scalars_of_every_type_are_metadata(tmp_path, images):
    values = {"a": 1, "b": 0.5, "c": True, "d": None, "e": "x", "f": float("nan")}
    for kind in ("jsonl", "parquet"):
        table = write_table(tmp_path, kind, [row_of("apple.png", **values, list=[1], bytes_or_dict={"x": 1})])
        (record,) = read_all(table_parts(table, images))
        assert record.metadata == values | {"f": None}


def test_text_of_parquet_that_is_not_utf8_is_named(tmp_path, images):
    pyarrow, parquet = arrow()
    captions = pyarrow.array([b"good", b"caf\xe9", b"fine"]).view(pyarrow.string())
    table = pyarrow.table({"image": ["apple.png", "bear.png", "cat.png"], "caption": captions})
    parquet.write_table(table, tmp_path / "table.parquet")
    found = read_all(table_parts(tmp_path / "table.parquet", images))
    assert keys(found) == ["apple.png", "cat.png"] and damages(found) == [("bear.png", "caption is not UTF-8")]


def test_a_parquet_file_that_is_truncated_or_changed_is_an_error_or_read(tmp_path, images):
    table = write_table(tmp_path, "parquet", [row_of(name) for name in NAMES])
    whole = table.read_bytes()
    generator = random.Random(0)
    for trial in range(60):
        changed = bytearray(whole)
        if trial % 2:
            del changed[generator.randrange(len(whole)) :]
        else:
            changed[generator.randrange(len(whole) - 300, len(whole))] ^= generator.randrange(1, 256)
        table.write_bytes(changed)
        try:
            found = read_all(table_parts(table, images))
        except UserError:
            continue
        assert set(keys(found)) <= set(NAMES)


def test_the_error_without_pyarrow_has_the_command_to_install_it(tmp_path, images, monkeypatch):
    (tmp_path / "table.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(importlib.import_module("sys").modules, "pyarrow", None)
    with pytest.raises(UserError, match=r'pip install "\S*\[parquet\]"'):
        table_parts(tmp_path / "table.parquet", images)


@pytest.mark.parametrize("kind", KINDS)
def test_a_column_that_is_missing_is_named(tmp_path, images, kind):
    table = write_table(tmp_path, kind, [{"image": "apple.png", "captions": "an apple"}])
    with pytest.raises(UserError, match=r"'caption'.*'captions'"):
        table_parts(table, images)


def test_what_a_user_can_fix_is_named(tmp_path, images):
    table = write_lines(tmp_path, row_of("apple.png"))
    with pytest.raises(UserError, match="--option=table="):
        table_parts("")
    with pytest.raises(UserError, match=r"nowhere\.csv"):
        table_parts(tmp_path / "nowhere.csv")
    with pytest.raises(UserError, match=f"{tmp_path}/nowhere"):
        table_parts(table, tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"images_per_part.*0"):
        table_parts(table, images, images_per_part=0)
    with pytest.raises(UserError, match=r"'\.json'.*'\.jsonl'"):
        table_parts(table.rename(tmp_path / "table.json"), images)
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(UserError, match=r"empty\.jsonl"):
        table_parts(tmp_path / "empty.jsonl", images)
    for kind, content in (("csv", ""), ("csv", '"image'), ("parquet", "PAR1")):
        (tmp_path / f"empty.{kind}").write_text(content)
        with pytest.raises(UserError, match=rf"empty\.{kind}"):
            table_parts(tmp_path / f"empty.{kind}", images)


@pytest.mark.parametrize("kind", KINDS)
def test_a_fingerprint_changes_with_rows_and_images_of_its_part_alone(tmp_path, images, kind):
    def fingerprints(rows):
        return [part.fingerprint for part in table_parts(write_table(tmp_path, kind, rows), images, images_per_part=2)]

    rows = [row_of(name) for name in NAMES]
    before = fingerprints(rows)
    assert fingerprints(rows) == before
    rows[2] = row_of(NAMES[2], "another caption")
    assert [one == other for one, other in zip(before, fingerprints(rows), strict=True)] == [True, False, True, True]
    before = fingerprints(rows)
    os.utime(images / NAMES[6], ns=(1, 1))
    assert [one == other for one, other in zip(before, fingerprints(rows), strict=True)] == [True, True, True, False]


def test_a_table_that_changed_since_it_was_listed_is_not_read(tmp_path, images):
    table = write_lines(tmp_path, *(row_of(name) for name in NAMES))
    parts = table_parts(table, images)
    write_lines(tmp_path, row_of("bear.png"), *(row_of(name) for name in NAMES[2:]))
    for _ in range(2):
        with pytest.raises(UserError, match=str(table)):
            read_all(parts)
        table.unlink(missing_ok=True)


def test_a_folder_that_is_gone_is_an_error(tmp_path, images):
    parts = [*table_parts(write_lines(tmp_path, row_of("apple.png")), images), *folder_with_captions(images)]
    images.rename(tmp_path / "elsewhere")
    for part in parts:
        with pytest.raises(UserError, match=str(images)):
            list(part.read())


@pytest.mark.thorough
def test_listing_keeps_little_of_each_row(tmp_path, images):
    table = write_lines(tmp_path, *(row_of(f"{number}.png", "words " * 50) for number in range(3000)))
    tracemalloc.start()
    parts = table_parts(table, images, images_per_part=100)
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(parts) == 30 and table.stat().st_size > 900_000
    assert held < 100_000 and peak < 500_000, "of each row eight bytes, and of each part where it begins"
    assert max(len(pickle.dumps(part)) for part in parts) < 1000


@pytest.mark.parametrize("kind", KINDS)
def test_tables_and_images_in_a_bucket_are_those_of_the_disk(tmp_path, images, bucket, kind):
    rows = [row_of(name, f"number {number}") for number, name in enumerate([*NAMES, "nowhere.png", "../apple.png"])]
    table = write_table(images, kind, rows)
    folder = upload(images, bucket / "images")
    ours = table_parts(table, images_per_part=4)
    theirs = pickle.loads(pickle.dumps(table_parts(str(folder / table.name), images_per_part=4)))
    for one, other in zip(ours, theirs, strict=True):
        found = [list(part.read()) for part in (one, other)]
        assert keys(found[0]) == keys(found[1]) and damages(found[0]) == damages(found[1])
        assert [one for one in found[0] if isinstance(one, Record)] == [
            one for one in found[1] if isinstance(one, Record)
        ]
    (folder / "apple.png").write_bytes(b"another")
    after = table_parts(folder / table.name, images_per_part=4)
    assert [one.fingerprint == other.fingerprint for one, other in zip(theirs, after, strict=True)] == [
        False,
        True,
        True,
    ]


def folder_with_captions(images, **options):
    for name in NAMES:
        (images / name).with_suffix(".txt").write_text(f"\ufeffA {name}\nits second line\n", encoding="utf-8")
    return folder_parts(images, **options)


@pytest.mark.parametrize("images_per_part", [1, 3, 1000])
def test_a_folder_gives_its_images_with_what_lies_beside_them(images, images_per_part):
    (images / "cat.json").write_text('{"width": 7, "tags": ["x"], "author": null}')
    (images / "notes.txt").write_text("of no image")
    records = read_all(pickle.loads(pickle.dumps(folder_with_captions(images, images_per_part=images_per_part))))
    assert keys(records) == NAMES
    assert [record.encoded for record in records] == [content_of(name) for name in NAMES]
    assert [record.captions for record in records] == [(f"A {name}",) for name in NAMES]
    assert [record.concept for record in records] == [f"a {name}" for name in NAMES]
    assert [record.metadata for record in records] == [{}, {}, {"width": 7, "author": None}, {}, {}, {}, {}]


def test_what_is_wrong_in_a_folder_is_named_and_the_others_are_read(images):
    folder_with_captions(images)
    (images / "apple.txt").unlink()
    (images / "bear.txt").write_bytes(b"\nsecond")
    (images / "cat.txt").write_bytes(b"caf\xe9")
    (images / "dog.json").write_text("{")
    (images / "elk.png").write_bytes(b"")
    parts = folder_parts(images)
    (images / "more" / "fox.png").unlink()
    found = read_all(parts)
    assert keys(found) == ["more/goat.png"]
    assert damages(found) == [
        ("apple.png", "no caption"),
        ("bear.png", "caption is empty"),
        ("cat.png", "caption is not UTF-8"),
        ("dog.png", "metadata is not JSON"),
        ("elk.png", "image is empty"),
        ("more/fox.png", "no image file"),
    ]


def test_a_folder_in_a_bucket_is_that_of_the_disk(images, bucket):
    ours = folder_with_captions(images, images_per_part=3)
    folder = upload(images, bucket / "images")
    parts = pickle.loads(pickle.dumps(folder_parts(str(folder), images_per_part=3)))
    assert read_all(parts) == read_all(ours)
    (folder / "cat.png").unlink()
    assert damages(read_all(parts)) == [("cat.png", "no image file")]


def test_a_changed_caption_or_image_is_another_fingerprint_of_its_part(images):
    def fingerprints():
        return [part.fingerprint for part in folder_parts(images, images_per_part=3)]

    before = [part.fingerprint for part in folder_with_captions(images, images_per_part=3)]
    assert fingerprints() == before
    (images / "dog.txt").write_text("another caption")
    assert [one == other for one, other in zip(before, fingerprints(), strict=True)] == [True, False, True]
    os.utime(images / "apple.png", ns=(1, 1))
    assert [one == other for one, other in zip(before, fingerprints(), strict=True)] == [False, False, True]


def test_a_missing_and_an_empty_folder_are_named(tmp_path, images):
    with pytest.raises(UserError, match="--option=folder="):
        folder_parts("")
    with pytest.raises(UserError, match=f"{tmp_path}/nowhere"):
        folder_parts(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=f"{tmp_path}/empty"):
        folder_parts(tmp_path / "empty")
    with pytest.raises(UserError, match=r"images_per_part.*0"):
        folder_parts(images, images_per_part=0)


def test_a_file_whose_name_is_not_utf8_is_read_under_one_that_is(tmp_path):
    try:
        (tmp_path / os.fsdecode(b"caf\xe9.png")).write_bytes(b"pixels")
    except OSError:
        pytest.skip("this disk allows only names of UTF-8")
    (tmp_path / os.fsdecode(b"caf\xe9.txt")).write_bytes(b"coffee")
    (record,) = read_all(folder_parts(tmp_path))
    assert (record.key, record.encoded, record.captions) == (r"caf\udce9.png", b"pixels", ("coffee",))


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_a_line_that_would_fill_the_memory_is_named_and_the_next_is_read(images, kind, monkeypatch):
    monkeypatch.setattr("imagen_jax.data.sources.table_rows.MAX_LINE_LENGTH", 100)
    first, second = NAMES[:2]
    rows = [(first, "a"), (first, "x" * 5000), (second, "b")]
    lines = [json.dumps(row_of(*row)) if kind == "jsonl" else ",".join(row) for row in rows]
    table = images / f"table.{kind}"
    table.write_text("\n".join(lines if kind == "jsonl" else ["image,caption", *lines]) + "\n")
    found = read_all(table_parts(table))
    assert [one.reason for one in found if isinstance(one, Damage)] == ["row is too long"]
    assert len(found) == 3


LONG = 100_000


@pytest.mark.parametrize("listed", [True, False])
def test_a_parquet_file_of_few_bytes_does_not_fill_the_memory(tmp_path, listed):
    """Of a long text that each row has, the file holds one; a thousand of 400 kB had 534 MiB in memory."""
    pyarrow, parquet = arrow()
    caption = ["x" * LONG] * 2 if listed else "x" * LONG
    columns = {"image": [f"{number}.png" for number in range(600)], "caption": [caption] * 600}
    parquet.write_table(pyarrow.table(columns), tmp_path / "t.parquet")
    before = pyarrow.total_allocated_bytes()
    tracemalloc.start()
    rows = list(read_parquet(tmp_path / "t.parquet", None, ["image", "caption"]))
    allocated, held = pyarrow.total_allocated_bytes() - before, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (
        len(rows) == 600 and rows[0].values == rows[-1].values | {"image": "0.png"} and max(held, allocated) < 20 * LONG
    )


@pytest.mark.parametrize("options", [{}, {"column_encoding": {"caption": "DELTA_BYTE_ARRAY"}, "use_dictionary": False}])
def test_parquet_of_larger_groups_is_read_fewer_rows_at_a_time(tmp_path, monkeypatch, options):
    pyarrow, parquet = arrow()
    monkeypatch.setattr("imagen_jax.data.sources.parquet_rows.SMALL_GROUP", 0)
    monkeypatch.setattr("imagen_jax.data.sources.parquet_rows.BYTES_AT_A_TIME", 5 * LONG)
    columns = {"image": [f"{number}.png" for number in range(50)], "caption": ["x" * LONG] * 50}
    parquet.write_table(pyarrow.table(columns), tmp_path / "t.parquet", row_group_size=30, **options)
    sizes, whole = [], parquet.ParquetFile.iter_batches

    def iterate(file, rows, **others):
        sizes.append(rows)
        return whole(file, rows, **others)

    monkeypatch.setattr(parquet.ParquetFile, "iter_batches", iterate)
    rows = list(read_parquet(tmp_path / "t.parquet", RowPosition(7, 8), ["image", "caption"]))
    assert [row.values["image"] for row in rows] == columns["image"][7:] and rows[0].values["caption"] == "x" * LONG
    assert sizes == [1, 4, 1, 4], "the file says of a text no more than that it is one of a few"


def test_a_row_group_too_large_to_read_is_an_error(tmp_path, monkeypatch):
    pyarrow, parquet = arrow()
    monkeypatch.setattr("imagen_jax.data.sources.parquet_rows.MAX_GROUP_BYTES", 10_000)
    plain = {"image": [f"{number}.png" for number in range(50)], "caption": ["a" * 500] * 25 + ["b" * 10] * 25}
    for columns in ({**plain, "caption": ["x" * 15_000] * 50}, {**plain, "caption": [["x"] * 5] * 50}):
        parquet.write_table(pyarrow.table(columns), tmp_path / "t.parquet")
        with pytest.raises(UserError, match=r"\b50 rows\b.*\b10000\b"):
            list(read_parquet(tmp_path / "t.parquet", None, ["image", "caption"]))
    parquet.write_table(pyarrow.table({**plain, "bytes": [b"x" * 15_000] * 50}), tmp_path / "t.parquet")
    assert len(list(read_parquet(tmp_path / "t.parquet", None, ["image"]))) == 50, "of columns that are not read none"
