"""Reads a prepared data set with random access and without TensorFlow."""

import hashlib
import json
import resource
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import tensorflow_datasets as tfds

from imagen_jax.data.preparation.shards import DATASET
from imagen_jax.data.splits import Split
from imagen_jax.errors import UserError
from imagen_jax.storage.json_text import parse_json, read_json
from imagen_jax.storage.local_copies import local_folder
from imagen_jax.storage.names import stays_below
from imagen_jax.storage.paths import Path, checksum_of, to_path
from imagen_jax.storage.refusals import raise_if_denied

FEATURES = "features.json"
MAX_FEATURES = 2**20
CLASS_NAME = "pythonClassName"
OF_TFDS = "tensorflow_datasets.core.features."

MANIFEST = "manifest.json"
CAPTIONS = "captions.json"

PREPARED_FORMAT = 3
"""Format version of the folder that ``preparation`` writes. Data sets of another version must be prepared again."""

Item = TypeVar("Item", covariant=True)


@runtime_checkable
class RandomAccess(Protocol[Item]):
    """A sequence that can be read by index in any order, such as a list."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Item: ...


class StoredImage(NamedTuple):
    """One example as stored.

    Attributes:
        key: its name in its source.
        captions: one or more captions.
        encoded: bytes of the PNG, JPEG or WebP file.
    """

    key: str
    captions: tuple[str, ...]
    encoded: bytes


class UnreadableError(Exception):
    """Raised for a single image that can't be read although its file exists."""


class StoredImages:
    """One split of a prepared data set, as a sequence that is thread-safe and picklable.

    ArrayRecord reads only local files, so a data set in a bucket is copied first.

    Args:
        dataset: the folder that TFDS reads.
        split: the split to read.
        sizes: sizes in bytes of the split's files, by their paths relative to the folder.
    """

    def __init__(self, dataset: Path, split: Split, sizes: Mapping[str, int]):
        allow_open_files()
        folder = local_folder(dataset)
        check_features(folder)
        self._records = tfds.builder_from_directory(folder).as_data_source(
            split, decoders={"image": tfds.decode.SkipDecoding()}
        )
        self._sizes = {folder / name: size for name, size in sizes.items()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restores the sequence in the worker process that receives it."""
        allow_open_files()
        self.__dict__.update(state)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> StoredImage:
        # Python ends a `for` loop over a sequence at this error.
        if not 0 <= index < len(self):
            raise IndexError(index)
        try:
            record = self._records[index]
        except RuntimeError as error:
            # ArrayRecord checks each record's checksum, and raises the same error if the file is missing.
            for file, size in self._sizes.items():
                if not file.is_file() or file.stat().st_size != size:
                    raise UserError(
                        f"{file} is gone or cut short since training began: copy it again, and run the same command"
                    ) from error
            raise UnreadableError(str(error)) from error
        captions = record["captions"] if "captions" in record else [record["caption"]]
        return StoredImage(
            record["key"].decode("utf-8"), tuple(caption.decode("utf-8") for caption in captions), record["image"]
        )


def check_features(folder: Path) -> None:
    """Checks that ``features.json`` names only classes of TFDS, because TFDS imports any Python module named there.

    Raises:
        UserError: another class is named, or the file is missing or damaged.
    """
    file = folder / FEATURES
    try:
        level = [read_json(file, MAX_FEATURES)]
    except (OSError, ValueError) as error:
        raise_if_denied(error, file)
        raise UserError(f"{file} can't be read ({error}): prepare the data set again, or copy it again") from None
    while level:
        for node in level:
            named = node.get(CLASS_NAME, OF_TFDS) if isinstance(node, dict) else OF_TFDS
            if not isinstance(named, str) or not named.startswith(OF_TFDS):
                raise UserError(f"{file} names the code {named!a}, which is not run: prepare the data set again")
        inner = (node.values() if isinstance(node, dict) else node if isinstance(node, list) else () for node in level)
        level = [value for values in inner for value in values]


def allow_open_files() -> None:
    """Raises this process's limit on open files to the max: ArrayRecord keeps every shard open that it has read."""
    _, hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard_limit, hard_limit))


def check_split(folder: Path, split: Split) -> None:
    """Checks that a data set has images in a split, reading only its manifest.

    Raises:
        UserError: the folder contains no data set, or the split is empty.
    """
    if not read_manifest(folder)["counts"][split]:
        raise UserError(f"the {split} split of {folder} is empty: prepare more images, or another validation_fraction")


def load_split(folder: str | Path, split: Split) -> StoredImages:
    """Opens one split of the data set in ``folder``, a folder that ``prepare_data`` returned.

    Raises:
        UserError: the folder contains no data set, or the split is empty.
    """
    folder = to_path(folder)
    check_split(folder, split)
    return StoredImages(folder / DATASET, split, sizes_of(folder, split))


def sizes_of(folder: Path, split: Split) -> dict[str, int]:
    """Returns the size in bytes of each file of a split, by its path relative to the folder that TFDS reads."""
    manifest = read_manifest(folder)
    if "shards" in manifest:
        sizes = {shard["file"]: shard["bytes"] for shard in manifest["shards"]}
    else:
        sizes = manifest["file_sizes"]
    files = {name.removeprefix(f"{DATASET}/"): size for name, size in sizes.items() if name.startswith(DATASET)}
    return {name: size for name, size in files.items() if f"-{split}.array_record" in name}


def captions_of(folder: str | Path, split: Split) -> list[tuple[str, ...]]:
    """Returns the captions of each image of one split, in the order of ``load_split``, without reading any image."""
    return list(read_captions(folder, split))


def read_captions(folder: str | Path, split: Split) -> Iterator[tuple[str, ...]]:
    """Yields the captions of each image of one split, in the order of ``load_split``.

    It reads shard by shard, so a large data set takes little memory.

    Raises:
        UserError: the manifest is missing, damaged, or names a file outside its folder.
    """
    folder = to_path(folder)
    manifest = read_manifest(folder)
    if "shards" not in manifest:
        for captions in read_json(folder / CAPTIONS)[split]:
            # A single caption stands there without a list.
            yield (captions,) if isinstance(captions, str) else tuple(captions)
        return
    for shard in manifest["shards"]:
        if shard["split"] == split:
            if not stays_below(shard["captions"]):
                raise UserError(f"{folder / MANIFEST} names a file outside its folder: prepare the data set again")
            # Not splitlines: a caption may contain a character that it treats as the end of a line.
            for line in (folder / shard["captions"]).read_bytes().split(b"\n")[:-1]:
                yield tuple(parse_json(line))


def identify(folder: Path) -> str:
    """Returns sixteen hexadecimal digits that identify a data set: a hash of its manifest.

    Raises:
        UserError: the folder contains no data set.
    """
    read_manifest(folder)
    return hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()[:16]


def identify_rendered(folder: Path) -> str:
    """Returns sixteen hexadecimal digits that identify a rendered data set by its captions and images.

    It reads all files. The manifest and the folder's name can't identify the content: the manifest also contains where
    the images came from, and the name depends on when their files were written.

    Raises:
        UserError: the folder contains no data set.
    """
    manifest = read_manifest(folder)
    dataset = local_folder(folder / DATASET)
    images = {file.name: checksum_of(file) for file in sorted(dataset.glob("*.array_record*"))}
    content = [manifest["source"], manifest["resolution"], read_json(folder / CAPTIONS), images]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def read_manifest(folder: Path) -> dict[str, Any]:
    """Reads the manifest of a prepared data set.

    Raises:
        UserError: the folder contains no complete data set, or the manifest is damaged.
    """
    try:
        manifest = read_json(folder / MANIFEST)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"{folder} has no prepared data set: prepare it first, with imagen-jax prepare_data") from error
    except ValueError:
        manifest = None
    if not isinstance(manifest, dict) or not {"source", "counts"} <= manifest.keys():
        raise UserError(f"{folder / MANIFEST} is damaged: prepare the data set again, or copy it again")
    return manifest
