"""The files of a prepared data set: ArrayRecord shards that TFDS opens too, and lines of JSON beside them.

captioned_images/captioned_images-train.array_record-00003-of-00010    records: key, captions, image, metadata
captioned_images/dataset_info.json, features.json                      what TFDS reads to know what they are
captions/train-00003.jsonl                                             the captions alone, a line a record
quarantine.jsonl                                                       what can't be read, and why
repeated.jsonl                                                         what repeats another record, and which
"""

import io
import json
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from tensorflow_datasets.core.example_serializer import ExampleSerializer

from imagen_jax.data.sources.record_fields import printable
from imagen_jax.storage.json_text import parse_json
from imagen_jax.storage.paths import Path, write_whole

DATASET = "captioned_images"
TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
ONE_BY_ONE = "group_size:1"
"""Records are read at random, and a group is decompressed as a whole."""


@cache
def record_features() -> tfds.features.FeaturesDict:
    """What a record holds; ``metadata`` is JSON."""
    return tfds.features.FeaturesDict(
        {
            "key": tfds.features.Text(),
            "captions": tfds.features.Sequence(tfds.features.Text()),
            "image": tfds.features.Image(shape=(None, None, 3)),
            "metadata": tfds.features.Text(),
        }
    )


class ShardWriter:
    """Writes one shard, and the lines of its captions.

    Args:
        records: the shard's file.
        captions: the file of its captions.
    """

    def __init__(self, records: pathlib.Path, captions: pathlib.Path) -> None:
        self._records = ArrayRecordWriter(str(records), ONE_BY_ONE)
        self._captions = captions.open("w", encoding="utf-8")
        self._serializer = ExampleSerializer(record_features().get_serialized_info())
        self.count = 0

    def write(self, key: str, captions: Sequence[str], encoded: bytes, metadata: Mapping[str, Any]) -> None:
        """Adds a record."""
        example = {
            "key": key,
            "captions": list(captions),
            # As a file object: TFDS encodes arrays with TensorFlow, but takes encoded images as they are.
            "image": io.BytesIO(encoded),
            # A lone surrogate, which UTF-8 can't hold, becomes what JSON reads as one.
            "metadata": printable(json.dumps(metadata, ensure_ascii=False, sort_keys=True)),
        }
        proto = self._serializer.get_tf_example(record_features().encode_example(example))
        # Else the order of its fields, and so the bytes, would be another in each process.
        self._records.write(proto.SerializeToString(deterministic=True))
        self._captions.write(json.dumps(captions, ensure_ascii=False) + "\n")
        self.count += 1

    def close(self) -> None:
        """Ends both files."""
        try:
            self._records.close()
        finally:
            self._captions.close()


def shard_name(split: str, number: int, total: int) -> str:
    """The name of a shard's file, as TFDS has it."""
    return f"{DATASET}-{split}.array_record-{number:05d}-of-{total:05d}"


def write_dataset_info(folder: pathlib.Path, records_of_shards: Mapping[str, Sequence[int]]) -> None:
    """Writes what TFDS reads to know what is in a folder of shards.

    Args:
        folder: of the shards.
        records_of_shards: for each split that has shards, the number of records of each.
    """
    splits = []
    for split, counts in records_of_shards.items():
        if counts:
            template = tfds.core.ShardedFileTemplate(
                data_dir=folder, template=TEMPLATE, dataset_name=DATASET, split=split, filetype_suffix="array_record"
            )
            size = sum(
                (folder / shard_name(split, number, len(counts))).stat().st_size for number in range(len(counts))
            )
            splits.append(
                tfds.core.SplitInfo(name=split, shard_lengths=list(counts), num_bytes=size, filename_template=template)
            )
    tfds.folder_dataset.write_metadata(
        data_dir=folder, features=record_features(), split_infos=splits, filename_template=TEMPLATE, check_data=False
    )


def write_lines(file: pathlib.Path, rows: Iterable[Any]) -> None:
    """Writes JSON, a line a row."""
    with file.open("w", encoding="utf-8") as stream:
        stream.writelines(json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n" for row in rows)


def read_lines(file: pathlib.Path) -> Iterator[Any]:
    """Reads what ``write_lines`` wrote."""
    with file.open(encoding="utf-8") as stream:
        yield from map(parse_json, stream)


def write_json(file: pathlib.Path, content: Any) -> None:
    """Writes readable JSON, of which no reader ever sees half."""
    write_whole(file, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())


def read_json(file: Path) -> Any:
    """Reads what ``write_json`` wrote; None where there is no such file, or no whole one."""
    try:
        return parse_json(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
