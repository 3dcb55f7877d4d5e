"""One complete set of embedded captions: a folder of buckets, and a file that describes them.

FOLDER/ENCODER/SET/00000.safetensors, …    the buckets; each has an equal range of hashes
FOLDER/ENCODER/SET/store.json              written last: names, sizes and checksums of the buckets, and counts
FOLDER/ENCODER/DATA.json                   names the set that has all captions of a data set
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from imagen_jax.encoders.embedding_bucket import Bucket, Found, Hash, open_bucket
from imagen_jax.errors import UserError
from imagen_jax.storage.json_text import read_json
from imagen_jax.storage.local_copies import local_copy
from imagen_jax.storage.names import stays_below
from imagen_jax.storage.paths import Path, checksum_of, size_of, write_whole
from imagen_jax.storage.refusals import raise_if_denied

STORE = "store.json"
CHECKED_BYTES = 2**30
"""Opening a store of at most this many bytes verifies its checksums. A larger store is verified on request only."""

OPEN_BUCKETS = 256


@dataclass(frozen=True)
class Layer:
    """One complete set of captions: a folder of buckets.

    Attributes:
        folder: the folder of the buckets.
        width: the size of each token's embedding.
        captions: the number of distinct captions.
        lengths: maps a number of tokens to the number of captions that have it.
        files: names and checksums of the buckets, in the order of their ranges.
    """

    folder: Path
    width: int
    captions: int
    lengths: Mapping[int, int]
    files: tuple[tuple[str, str], ...]

    def find(self, wanted: Hash) -> Found | None:
        """Returns the location of a caption's embedding by the caption's hash, or None if there is none.

        Raises:
            UserError: the bucket is damaged, or has another width.
        """
        bucket = open_once(self.folder, *self.files[bucket_of(wanted, len(self.files))])
        if bucket.width != self.width:
            raise UserError(
                f"{bucket.file.name} has tokens of width {bucket.width}, not {self.width}: delete {self.folder}, and "
                "the next run rebuilds it"
            )
        return bucket.find(wanted)


@lru_cache(maxsize=OPEN_BUCKETS)
def open_once(folder: Path, name: str, checksum: str) -> Bucket:
    """Opens a bucket and caches it by all arguments. Copies one in Google Cloud Storage to the disk first."""
    return open_bucket(local_copy(folder / name))


def bucket_of(wanted: Hash, buckets: int) -> int:
    """Returns the index of the bucket for a hash; the buckets divide the hashes into equal ranges."""
    return wanted[0] * buckets >> 64


def open_layers(parent: Path, opened: Sequence[Layer] = ()) -> list[Layer]:
    """Returns the complete layers of one encoder: the open ones first, then the others sorted by name."""
    if not parent.is_dir():
        return list(opened)
    folders = {file.parent for file in parent.glob(f"*/{STORE}")} - {layer.folder for layer in opened}
    return [*opened, *map(open_layer, sorted(folders))]


def open_layer(folder: Path, verify: bool = False) -> Layer:
    """Opens a layer after a check of its files' sizes, and of their checksums if it is small.

    Args:
        folder: the layer's folder.
        verify: whether to verify the checksums at any size.

    Raises:
        UserError: the layer is incomplete or damaged.
    """
    try:
        description = read_json(folder / STORE)
        check_counts(description)
        buckets = description["buckets"]
        verify = verify or sum(bucket["bytes"] for bucket in buckets) <= CHECKED_BYTES
        for bucket in buckets:
            if not stays_below(bucket["file"]):
                raise ValueError("it names a file outside the folder")
            file = folder / bucket["file"]
            if size_of(file) != bucket["bytes"] or (verify and checksum_of(local_copy(file)) != bucket["sha256"]):
                raise UserError(
                    f"{file} is damaged (its size or checksum differs): delete {folder}, and the next run rebuilds it"
                )
        lengths = {int(tokens): count for tokens, count in description["lengths"].items()}
        files = tuple((bucket["file"], bucket["sha256"]) for bucket in buckets)
        return Layer(folder, description["width"], description["captions"], lengths, files)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise_if_denied(error, folder)
        raise UserError(
            f"{folder} contains no readable embeddings ({error}): delete it, and the next run rebuilds it"
        ) from error


def check_counts(description: Any) -> None:
    """Checks that the description of a layer names at least one bucket, and that its counts are non-negative integers.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: the description is invalid.
    """
    buckets = description["buckets"]
    counts = [
        description["width"],
        description["captions"],
        *description["lengths"].values(),
        *(bucket["bytes"] for bucket in buckets),
    ]
    if not all(type(count) is int and count >= 0 for count in counts):
        raise ValueError("one of its counts is not a whole number of at least 0")
    texts = [text for bucket in buckets for text in (bucket["file"], bucket["sha256"])]
    if not texts or not all(isinstance(text, str) for text in texts):
        raise ValueError("it names no files")


def remember(parent: Path, data: str, layer: Layer) -> None:
    """Records that a layer has all captions of a data set, so that later runs need not look them up."""
    write_whole(parent / f"{data}.json", json.dumps({"layer": layer.folder.name}).encode())


def recall(parent: Path, data: str, verify: bool = False) -> Layer | None:
    """Opens the layer that has all captions of a data set, as ``open_layer`` does. Returns None if none is recorded.

    Raises:
        UserError: the layer or the record of it is damaged.
    """
    note = parent / f"{data}.json"
    if not note.is_file():
        return None
    try:
        name = read_json(note)["layer"]
        if not stays_below(name):
            raise ValueError("it names a path outside the folder")
        is_complete = (parent / name / STORE).is_file()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise_if_denied(error, note)
        raise UserError(
            f"{note} can't be read ({error}): delete it, and the next run looks the captions up again"
        ) from error
    return open_layer(parent / name, verify) if is_complete else None
