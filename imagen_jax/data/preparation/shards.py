"""The files of a prepared data set: ArrayRecord shards that TFDS can open, and JSON lines.

captioned_images/captioned_images-train.array_record-00003-of-00010    records: key, captions, image, metadata
captioned_images/dataset_info.json, features.json                      descriptions of the records for TFDS
captions/train-00003.jsonl                                             the captions alone, one line per record
quarantine.jsonl                                                       unreadable records, and why
repeated.jsonl                                                         records that repeat another one, and which
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
"""ArrayRecord groups of a single record: records are read at random, and a group is decompressed as a whole."""


@cache
def record_features() -> tfds.features.FeaturesDict:
    """Returns the features of a record; ``metadata`` is JSON."""
    return tfds.features.FeaturesDict(
        {
            "key": tfds.features.Text(),
            "captions": tfds.features.Sequence(tfds.features.Text()),
            "image": tfds.features.Image(shape=(None, None, 3)),
            "metadata": tfds.features.Text(),
        }
    )


class ShardWriter:
    """Writes one shard, and its captions as JSON lines.

    Args:
        records: path of the shard.
        captions: path of its captions.
    """

    def __init__(self, records: pathlib.Path, captions: pathlib.Path) -> None:
        self._records = ArrayRecordWriter(str(records), ONE_BY_ONE)
        self._captions = captions.open("w", encoding="utf-8")
        self._serializer = ExampleSerializer(record_features().get_serialized_info())
        self.count = 0

    def write(self, key: str, captions: Sequence[str], encoded: bytes, metadata: Mapping[str, Any]) -> None:
        """Writes a record and its captions."""
        example = {
            "key": key,
            "captions": list(captions),
            # As a file object: TFDS encodes arrays with TensorFlow, but stores encoded images unchanged.
            "image": io.BytesIO(encoded),
            # Lone surrogates, which UTF-8 can't encode, become JSON escapes.
            "metadata": printable(json.dumps(metadata, ensure_ascii=False, sort_keys=True)),
        }
        proto = self._serializer.get_tf_example(record_features().encode_example(example))
        # Otherwise the order of the fields, and so the bytes, would differ between processes.
        self._records.write(proto.SerializeToString(deterministic=True))
        self._captions.write(json.dumps(captions, ensure_ascii=False) + "\n")
        self.count += 1

    def close(self) -> None:
        """Closes both files."""
        try:
            self._records.close()
        finally:
            self._captions.close()


def shard_name(split: str, number: int, total: int) -> str:
    """Returns the file name of a shard, in the convention of TFDS."""
    return f"{DATASET}-{split}.array_record-{number:05d}-of-{total:05d}"


def write_dataset_info(folder: pathlib.Path, records_of_shards: Mapping[str, Sequence[int]]) -> None:
    """Writes the metadata files that TFDS needs to open a folder of shards.

    Args:
        folder: folder of the shards.
        records_of_shards: number of records of each shard, by split.
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
    """Writes rows as JSON lines."""
    with file.open("w", encoding="utf-8") as stream:
        stream.writelines(json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n" for row in rows)


def read_lines(file: pathlib.Path) -> Iterator[Any]:
    """Yields the rows that ``write_lines`` wrote."""
    with file.open(encoding="utf-8") as stream:
        yield from map(parse_json, stream)


def write_json(file: pathlib.Path, content: Any) -> None:
    """Writes indented JSON atomically: no reader sees a partial file."""
    write_whole(file, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())


def read_json(file: Path) -> Any:
    """Reads the JSON of ``write_json``; returns None if the file is missing or incomplete."""
    try:
        return parse_json(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
