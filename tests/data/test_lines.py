"""A caption or prompt ends where an editor shows the end of a line, in every reader, and nowhere else."""

import csv
import io
import json
import tarfile

import pytest
from PIL import Image

from imagen_jax.data.preparation.conversion import Conversion
from imagen_jax.data.preparation.preparation import Preparation, prepare
from imagen_jax.data.prompts import read_prompts
from imagen_jax.data.sources.folder import folder_images
from imagen_jax.data.sources.record_fields import split_lines
from imagen_jax.data.sources.tables import folder_parts, table_parts
from imagen_jax.data.sources.tar_shards import tar_shard_parts
from imagen_jax.data.stored_images import read_captions

WITHIN = {
    "vertical tab": "\v",
    "form feed": "\f",
    "file separator": "\x1c",
    "group separator": "\x1d",
    "record separator": "\x1e",
    "next line": "\x85",
    "line separator": "\u2028",
    "paragraph separator": "\u2029",
}
"""All of what ``str.splitlines`` takes for an end besides the three below (Python's documentation lists them)."""

ENDS = {"Unix": "\n", "Windows": "\r\n", "old Macs": "\r"}


@pytest.fixture
def image(tmp_path):
    Image.new("RGB", (8, 8), (9, 90, 200)).save(tmp_path / "cat.png")
    return tmp_path / "cat.png"


def write(file, text):
    file.write_bytes(text.encode())
    return file


def by_folder(caption, image, end):
    write(image.with_suffix(".txt"), f"{caption}{end}another line")
    return [one.caption for one in folder_images(image.parent)]


def by_prepared_folder(caption, image, end):
    write(image.with_suffix(".txt"), f"{caption}{end}another line")
    return captions_of(folder_parts(image.parent))


def captions_of(parts):
    return [caption for part in parts for record in part.read() for caption in record.captions]


def by_lines(caption, image, end):
    return read_prompts(write(image.with_name("p.txt"), f"{caption}{end}{end}"))


def by_json(caption, image, end):
    return read_prompts(write(image.with_name("p.json"), json.dumps([caption], ensure_ascii=False)))


def by_json_lines(caption, image, end):
    row = json.dumps({"image": "cat.png", "caption": caption}, ensure_ascii=False)
    return captions_of(table_parts(write(image.with_name("t.jsonl"), row + "\n")))


def by_csv(caption, image, end):
    text = io.StringIO()
    csv.writer(text).writerows([["image", "caption"], ["cat.png", caption]])
    return captions_of(table_parts(write(image.with_name("t.csv"), text.getvalue())))


def by_csv_of_prompts(caption, image, end):
    return read_prompts(write(image.with_name("p.csv"), f'prompt\n"{caption}"\n'))


def by_tar(caption, image, end):
    shards = image.parent / "shards"
    shards.mkdir()
    write(image.with_suffix(".txt"), caption + end)
    with tarfile.open(shards / "0.tar", "w") as archive:
        for suffix in (".png", ".txt"):
            archive.add(image.with_suffix(suffix), f"cat{suffix}")
    return captions_of(tar_shard_parts(shards))


def by_prepared_data_set(caption, image, end):
    write(image.with_suffix(".txt"), caption + end)
    out = image.parent.parent / f"{image.parent.name}-prepared"
    prepare(Preparation("folder", {}, "ours", folder_parts(image.parent), Conversion(validation_fraction=0.0)), out, 0)
    return [caption for captions in read_captions(out, "train") for caption in captions]


READERS = (
    *(by_folder, by_prepared_folder, by_prepared_data_set, by_lines, by_json, by_json_lines, by_csv, by_csv_of_prompts),
    by_tar,
)


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("character", WITHIN.values(), ids=list(WITHIN))
def test_a_character_within_a_caption_does_not_end_it(character, read, image):
    caption = f"a cat{character}on a mat"
    assert read(caption, image, "\n") == [caption]


@pytest.mark.parametrize("read", [by_folder, by_prepared_folder, by_lines, by_tar])
@pytest.mark.parametrize("end", ENDS.values(), ids=list(ENDS))
def test_a_line_ends_as_every_system_writes_it(end, read, image):
    assert read("a cat", image, end) == ["a cat"]


def test_lines_are_parted_at_three_ends_only():
    assert split_lines("a\nb\r\nc\rd\n\ne\n") == ["a", "b", "c", "d", "", "e", ""]
    for character in WITHIN.values():
        assert split_lines(f"a{character}b") == [f"a{character}b"]
    assert split_lines("") == [""]
