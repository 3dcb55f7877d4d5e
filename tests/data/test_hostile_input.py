"""Files that nobody meant: bytes flipped, cut, inserted and repeated, values of any kind, text of any kind.

What comes of one is an image, a record, a ``Damage`` or a ``UserError``, soon and in bounded memory; nothing else.
"""

import importlib
import io
import json
import resource
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from imagen_jax.data.batches import make_batches
from imagen_jax.data.opened_images import DamagedImageError
from imagen_jax.data.pixels import decode_pixels
from imagen_jax.data.preparation.conversion import Conversion, captions_file, convert_part
from imagen_jax.data.preparation.image_files import ImageRules, check_image
from imagen_jax.data.preparation.preparation import Preparation, prepare
from imagen_jax.data.preparation.shards import read_lines
from imagen_jax.data.sources.coco import coco_parts
from imagen_jax.data.sources.folder import render_file
from imagen_jax.data.sources.parted_sources import list_parts
from imagen_jax.data.sources.record_fields import is_utf8
from imagen_jax.data.sources.tables import folder_parts, table_parts
from imagen_jax.data.sources.tar_shards import tar_shard_parts
from imagen_jax.data.splits import SPLITS
from imagen_jax.data.stored_images import StoredImage, captions_of, load_split
from imagen_jax.data.transforms import make_example, make_super_resolution_example
from tests.data.mutations import allowing_user_error, in_time, mutated, often
from tests.data.part_sources import draw, encode, listed, record

# Pillow warns of odd metadata; a program prints it and goes on.
pytestmark = [pytest.mark.thorough, pytest.mark.filterwarnings("ignore::UserWarning")]

MOST_MEMORY = 2**30

REASONS = {
    "image is empty", "image is too large", "image is animated", "not an image", "image can't be decoded",
    "image has no 8-bit form",
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def bounded_memory():
    """What the tests of this file add to the most memory that was ever in use."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < MOST_MEMORY


def save(pixels, kind, **options):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format=kind, **options)
    return buffer.getvalue()


def exif_of(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def image_files():
    pixels = draw(3, (24, 20))
    alpha = np.dstack([pixels, pixels[..., :1]])
    grey = pixels[..., 0]
    return [
        save(pixels, "JPEG"),
        save(grey, "JPEG", progressive=True, exif=exif_of(6)),
        save(pixels, "PNG"),
        save(alpha, "PNG", exif=exif_of(3)),
        save(grey.astype(np.uint16) * 257, "PNG"),
        save(pixels, "WEBP", lossless=True),
        save(alpha, "WEBP"),
        save(pixels, "GIF"),
        save(grey, "GIF", transparency=3),
        save(pixels, "TIFF", compression="tiff_lzw"),
        save(alpha, "TIFF"),
        save(pixels, "BMP"),
    ]


IMAGES = image_files()
BOMB = IMAGES[-1][:18] + 2 * (60_000).to_bytes(4, "little") + IMAGES[-1][26:]


@often(400)
@given(mutated(IMAGES), st.sampled_from([None, 12]))
def test_an_image_is_decoded_and_trains_or_is_damaged(content, shorter_side):
    with in_time():
        try:
            checked = check_image(content, ImageRules(shorter_side, largest=1_000_000))
        except DamagedImageError as error:
            if error.reason not in REASONS or not is_utf8(error.detail):
                raise
            return
        pixels = decode_pixels(checked.encoded)
        assert pixels.shape == (checked.height, checked.width, 3) and pixels.dtype == np.uint8
        side = min(checked.height, checked.width)
        stored = StoredImage("key", ("caption",), checked.encoded)
        (batch,) = make_batches([stored], make_example(side), 1, seed=0, repeat=False)
        assert batch["image"].shape == (1, side, side, 3) and np.abs(batch["image"]).max() <= 1
        if side >= 4:
            transform = make_super_resolution_example(side // 4, side // 4 * 2)
            (batch,) = make_batches([stored], transform, 1, seed=0, repeat=False)
            assert batch["low_res"].shape == (1, side // 4, side // 4, 3)


@often(200)
@given(mutated(IMAGES))
@example(BOMB)
def test_an_image_that_is_damaged_later_is_left_out(content):
    """Whatever Pillow says of it; and where it is smaller than it was."""
    stored = [StoredImage(f"key-{n}", ("caption",), IMAGES[0] if n else content) for n in range(2)]
    batches = make_batches(stored, make_example(16), 2, seed=0, shuffle=False, repeat=False, max_bad_fraction=0.5)
    with in_time(), allowing_user_error("16 pixels"):  # it has become a smaller image
        (batch,) = batches
        assert batch["key"].tolist() in (["key-0", "key-1"], ["key-1", "key-1"])


@often(200)
@given(mutated(IMAGES))
def test_an_own_image_is_rendered_or_named(content):
    with tempfile.TemporaryDirectory() as folder, in_time():
        file = Path(folder) / "image"
        file.write_bytes(content)
        with allowing_user_error(str(file)):
            assert render_file(file, 8).shape == (8, 8, 3)


def convert(parts, folder):
    """Every part goes through the whole conversion; returns the captions that are kept and what is damaged."""
    captions, damaged = [], []
    for number, part in enumerate(parts):
        path = Path(folder) / f"converted-{number}"
        report = convert_part(part, path, Conversion())
        kept = [row for split in SPLITS for row in read_lines(captions_file(path, split))]
        rows = list(read_lines(path / "quarantine.jsonl"))
        assert len(kept) == sum(report["counts"].values()) and len(rows) == sum(report["damaged"].values())
        captions += kept
        damaged += rows
    assert all(isinstance(one, str) and one.strip() for row in captions for one in row)
    return captions, damaged


def tar_of(members, **options):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", **options) as archive:
        for name, content in members:
            header = tarfile.TarInfo(name)
            header.size = len(content)
            archive.addfile(header, io.BytesIO(content))
    return buffer.getvalue()


MEMBERS = [
    (f"{'long' * 40 if number == 2 else ''}{number}.{ending}", content)
    for number in range(3)
    for ending, content in {
        "png": encode(draw(number, (8, 8))),
        "txt": f"picture {number}".encode(),
        "json": json.dumps({"score": number, "name": "ä"}).encode(),
    }.items()
]
TARS = [tar_of(MEMBERS), tar_of(MEMBERS, format=tarfile.GNU_FORMAT)]


@often(120)
@given(mutated(TARS))
def test_a_shard_gives_records_and_damages(content):
    with tempfile.TemporaryDirectory() as folder, in_time():
        (Path(folder) / "0.tar").write_bytes(content)
        convert(tar_shard_parts(folder), folder)


# Captions: everything that Python's text can be, lone surrogates too.
TEXT = st.text(
    st.one_of(
        st.characters(),
        st.characters(categories=["Cs"]),
        st.characters(categories=["Cc", "Cf", "Zs"]),
        st.sampled_from("\r\n\0\x85\u2028\ufeff"),
    ),
    max_size=12,
)
JSON = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.sampled_from([10**400, -(10**4000), float("inf"), float("nan"), -0.0, "", "\0", "\ud800", "../x", "/x"]),
        st.floats(),
        TEXT,
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXT, inner, max_size=3)),
    max_leaves=5,
)


@often(80)
@given(st.one_of(TEXT.map(lambda text: text.encode("utf-8", "surrogatepass")), st.binary(max_size=20)), JSON)
def test_any_text_beside_an_image_is_a_caption_or_damage(text, metadata):
    members = [MEMBERS[0], ("0.txt", text), ("0.json", json.dumps(metadata).encode())]
    with tempfile.TemporaryDirectory() as folder, in_time():
        shards, own = Path(folder) / "shards", Path(folder) / "own"
        for parent in (shards, own):
            parent.mkdir()
        (shards / "0.tar").write_bytes(tar_of(members))
        for name, content in members:
            (own / name).write_bytes(content)
        for number, parts in enumerate(
            (tar_shard_parts(shards), folder_parts(own), list_parts("tux_paint", {"folder": str(own)}))
        ):
            captions, damaged = convert(parts, Path(folder) / str(number))
            assert len(captions) + len(damaged) == 1


def table_bytes(kind):
    rows = [{"image": f"{number}.png", "caption": f'a "{number}"', "score": number / 3} for number in range(4)]
    if kind == "parquet":
        arrow, parquet = (importlib.import_module(name) for name in ("pyarrow", "pyarrow.parquet"))
        buffer = io.BytesIO()
        parquet.write_table(arrow.Table.from_pylist(rows), buffer, row_group_size=2)
        return buffer.getvalue()
    if kind == "jsonl":
        return "".join(f"{json.dumps(row)}\n" for row in rows).encode()
    lines = ["image,caption,score", *(f'{row["image"]},"a ""picture""",{row["score"]}' for row in rows)]
    return "\r\n".join(lines).replace(",", "," if kind == "csv" else "\t").encode()


def read_table(content, kind):
    with tempfile.TemporaryDirectory() as folder, in_time():
        for number in range(4):
            (Path(folder) / f"{number}.png").write_bytes(MEMBERS[0][1])
        table = Path(folder) / f"table.{kind}"
        table.write_bytes(content)
        with allowing_user_error(str(table)):
            convert(table_parts(table, images_per_part=3), folder)


@pytest.mark.parametrize("kind", ["jsonl", "csv", "tsv", "parquet"])
def test_a_table_gives_records_and_damages_or_is_refused(kind):
    @often(100)
    @given(mutated([table_bytes(kind)]))
    def check(content):
        read_table(content, kind)

    check()


@often(100)
@given(st.lists(st.dictionaries(st.sampled_from(["image", "caption", "score"]), JSON), max_size=3))
def test_json_lines_may_contain_anything(rows):
    read_table("".join(f"{json.dumps(row)}\n" for row in [{"image": "0.png", "caption": "a"}, *rows]).encode(), "jsonl")


def coco_document():
    return {
        "images": [{"id": n, "file_name": f"{n}.png", "width": 8, "height": 8, "license": 1} for n in range(3)],
        "annotations": [{"id": n, "image_id": n, "caption": f"a picture {n}"} for n in range(3)],
        "licenses": [{"id": 1, "url": "CC0", "name": "CC0"}],
    }


def read_coco(content):
    with tempfile.TemporaryDirectory() as folder, in_time():
        path = Path(folder)
        for name in ("annotations", "train2014", "val2014"):
            (path / name).mkdir()
        for number in range(3):
            (path / "train2014" / f"{number}.png").write_bytes(MEMBERS[0][1])
        (path / "annotations" / "captions_val2014.json").write_text(json.dumps(coco_document()))
        (path / "annotations" / "captions_train2014.json").write_bytes(content)
        parts = []
        with allowing_user_error("captions_train2014.json"):
            parts = coco_parts(path)
        convert(parts, folder)


@often(200)
@given(mutated([json.dumps(coco_document()).encode()]))
@example(b"[" * 100_000)
def test_a_captions_file_gives_records_or_is_refused(content):
    read_coco(content)


FIELDS = [
    (table, row, name)
    for table, rows in coco_document().items()
    for row in (0, 2)
    if row < len(rows)
    for name in rows[row]
]


@often(150)
@given(st.sampled_from(FIELDS), JSON)
@example(("annotations", 0, "caption"), "a \ud83d picture")
@example(("images", 0, "file_name"), "\udcff.png")
@example(("images", 0, "file_name"), "x" * 300)
@example(("images", 0, "id"), float("inf"))
@example(("licenses", 0, "url"), "\ud800")
def test_a_captions_file_may_contain_anything(field, value):
    document = coco_document()
    table, row, name = field
    document[table][row][name] = value
    read_coco(json.dumps(document).encode())


@often(25)
@example([("\ud800", ["a"], "\ud800"), ("b", ["a", "\udcff"], None)])
@given(st.lists(st.tuples(TEXT, st.lists(TEXT, min_size=1, max_size=3), JSON), min_size=1, max_size=6))
def test_what_is_stored_is_read_back_as_it_was(items):
    records = [record(0)]
    for number, (key, captions, value) in enumerate(items):
        pixels = draw(number + 1)
        fields = {"key": f"{number} {key}", "captions": tuple(captions), "metadata": {"any": value, key: 1}}
        records.append(record(number + 1, encoded=encode(pixels), **fields))
    with tempfile.TemporaryDirectory() as folder, in_time():
        prepared = Preparation(
            "any", {}, "Ours", [listed(records)], Conversion(validation_fraction=0.0), max_bad_fraction=1.0
        )
        manifest = prepare(prepared, Path(folder), 0)
        stored = load_split(folder, "train")
        good = [one for one in records if all(map(is_utf8, one.captions)) and any(map(str.split, one.captions))]
        assert [one.encoded for one in stored] == [one.encoded for one in good]
        kept = [tuple(filter(str.split, one.captions)) for one in good]
        assert captions_of(folder, "train") == [one.captions for one in stored] == kept
        assert len(good) + sum(manifest["damaged"].values()) + sum(manifest["dropped"].values()) == len(records)
        for one, was in zip(stored, good, strict=True):
            assert one.key == was.key or not is_utf8(was.key)
