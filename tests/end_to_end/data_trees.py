"""Writes captioned images as data sets of others lie on disk, some of them damaged."""

import io
import json
import os
import tarfile
from collections.abc import Collection, Sequence
from pathlib import Path

from imagen_jax.data.sources.records import Record


def write_coco(
    folder: Path,
    records: Sequence[Record],
    validate: int,
    second_caption: str,
    cut: Collection[int] = (),
    empty: Collection[int] = (),
) -> Path:
    """Writes a tree as COCO 2014 has it.

    Args:
        folder: is made.
        records: JPEGs; the last ``validate`` of them are val2014.
        second_caption: which every image has besides its own.
        cut: records whose files are cut off.
        empty: records whose second caption is empty.
    """
    (folder / "annotations").mkdir(parents=True)
    numbered = list(enumerate(records))
    for split, chosen in (("train2014", numbered[:-validate]), ("val2014", numbered[-validate:])):
        (folder / split).mkdir()
        images, annotations = [], []
        for number, record in chosen:
            name = f"COCO_{split}_{number:012d}.jpg"
            (folder / split / name).write_bytes(record.encoded[:500] if number in cut else record.encoded)
            images.append({"id": number, "file_name": name, "license": 1})
            for which, caption in enumerate([*record.captions, "" if number in empty else second_caption]):
                annotations.append({"id": 10 * number + which, "image_id": number, "caption": caption})
        content = {"images": images, "annotations": annotations, "licenses": [{"id": 1, "url": "CC0", "name": "CC0"}]}
        (folder / "annotations" / f"captions_{split}.json").write_text(json.dumps(content))
    return folder


def write_shards(
    folder: Path,
    records: Sequence[Record],
    shards: int,
    pages: Collection[int] = (),
    without_caption: Collection[int] = (),
) -> Path:
    """Writes tar shards as img2dataset does; the last one is cut off within its last image.

    Args:
        folder: is made.
        records: JPEGs, as many for each shard.
        shards: how many.
        pages: records that have a web page for an image.
        without_caption: records that have none.
    """
    per_shard = len(records) // shards
    folder.mkdir(parents=True)
    for shard in range(shards):
        file = folder / f"{shard:05d}.tar"
        with tarfile.open(file, "w") as archive:
            for number in range(shard * per_shard, (shard + 1) * per_shard):
                members = {
                    "jpg": b"<html>404</html>" if number in pages else records[number].encoded,
                    "json": json.dumps({"aesthetic": number % 10}).encode(),
                    "txt": records[number].captions[0].encode(),
                }
                if number in without_caption:
                    del members["txt"]
                for ending, content in members.items():
                    member = tarfile.TarInfo(f"{number:09d}.{ending}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
    with tarfile.open(file) as archive:
        end = archive.getmember(f"{shards * per_shard - 1:09d}.jpg").offset_data + 100
    os.truncate(file, end)
    return folder


def write_own(folder: Path, records: Sequence[Record], ending: str) -> Path:
    """Writes images with their captions beside them, in two subfolders."""
    for number, record in enumerate(records):
        place = folder / ("a" if number % 2 else "b")
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number}.{ending}").write_bytes(record.encoded)
        (place / f"{number}.txt").write_text(record.captions[0], encoding="utf-8")
    return folder
