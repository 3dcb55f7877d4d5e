"""Features of all images of a data set, computed once and stored: of each image as it is, and of its mirror image.

    stored images -> shards of 1,024 in stored order -> network.prepare, plain and mirrored -> features
    -> DATA/image_embeddings/NETWORK/DATA_SET/train-00003.npz, … -> found by the images' keys

A complete shard is not computed again, so an interrupted run can be resumed. Several hosts share the shards. The name
of the folder contains the network's checksum, and that of the data set, so features never belong to other weights or
other images. Features are float16: a half of the bytes, and with three decimal digits more than a cosine needs.
"""

import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import jax
import numpy as np
from jaxtyping import Bool, Float16, Float32

from imagen_jax.data.pixels import decode_pixels
from imagen_jax.data.splits import SPLITS, Split
from imagen_jax.data.stored_images import StoredImages, identify, load_split, read_manifest
from imagen_jax.encoders.feature_network import FeatureNetwork
from imagen_jax.encoders.feature_networks import BATCH, ExtractBatch, compile_extraction
from imagen_jax.errors import UserError
from imagen_jax.runtime import processes
from imagen_jax.runtime.progress_bars import ProgressBar
from imagen_jax.storage.array_files import ArrayFileError, opened_arrays
from imagen_jax.storage.paths import Path, create_folder, write_whole

FOLDER = "image_embeddings"
SHARD_IMAGES = 1024
NAME_DIGITS = 8


@dataclass(frozen=True)
class ImageEmbeddings:
    """The features of the images of data sets, in memory: 4 bytes for each image and feature.

    Attributes:
        name: identifies the network and the data sets.
        rows: the row of each image, by its key.
        plain: features of the images, ``(images, features)``.
        mirrored: features of the images, mirrored left to right.
    """

    name: str
    rows: dict[str, int]
    plain: Float16[np.ndarray, "images features"]
    mirrored: Float16[np.ndarray, "images features"]

    @property
    def width(self) -> int:
        """The number of features."""
        return self.plain.shape[1]

    def lookup(
        self, keys: Sequence[str], mirrored: Bool[np.ndarray, " batch"] | None = None
    ) -> Float32[np.ndarray, "batch features"]:
        """Returns the features of images.

        Args:
            keys: the images' keys.
            mirrored: whether the features are those of the mirrored image; None for no image.

        Raises:
            UserError: an image has no features.
        """
        lacking = [key for key in keys if key not in self.rows]
        if lacking:
            raise UserError(
                f"the image {lacking[0]!r} has no stored features: remove the folder {FOLDER} of its data set"
            )
        rows = np.array([self.rows[key] for key in keys], np.int64)
        features = self.plain[rows]
        if mirrored is not None:
            features = np.where(np.asarray(mirrored)[:, None], self.mirrored[rows], features)
        return features.astype(np.float32)


def open_image_embeddings(folders: Sequence[Path], network: FeatureNetwork) -> ImageEmbeddings:
    """Opens the features of all images of data sets, and computes missing ones. Every process must call it.

    Args:
        folders: the folders of the prepared data sets.
        network: the network. Its ``prepare`` decides which square of an image it sees.

    Raises:
        UserError: a folder has no data set, two data sets have images of the same key, or a file is damaged or can't be
            written.
    """
    places = [folder_of(folder, network) for folder in folders]
    # First each process computes its share of the shards. In a folder that the hosts do not share, the others are then
    # still missing.
    for share in (slice(jax.process_index(), None, jax.process_count()), slice(None)):
        for folder, place in zip(folders, places, strict=True):
            compute_missing(folder, place, network, share)
        processes.barrier("the images' features are stored")
    keys: list[str] = []
    plain, mirrored = [], []
    for folder, place in zip(folders, places, strict=True):
        for split, shard in list_shards(folder):
            of_shard = read_shard(shard_path(place, split, shard))
            keys += of_shard[0]
            plain.append(of_shard[1])
            mirrored.append(of_shard[2])
    rows = {key: row for row, key in enumerate(keys)}
    if len(rows) != len(keys):
        raise UserError(
            "two images of the data sets have the same key, so their features can't be told apart: merge them"
        )
    name = hashlib.sha256(json.dumps([str(place.name) for place in places]).encode()).hexdigest()[:16]
    return ImageEmbeddings(name, rows, np.concatenate(plain), np.concatenate(mirrored))


def folder_of(folder: Path, network: FeatureNetwork) -> Path:
    """Returns the folder of a data set's features."""
    digest = hashlib.sha256(json.dumps(network.key, sort_keys=True).encode()).hexdigest()[:NAME_DIGITS]
    return folder / FOLDER / f"{network.name}-{digest}" / identify(folder)


def list_shards(folder: Path) -> Iterator[tuple[Split, int]]:
    """Yields the split and the number of each shard of a data set."""
    counts = read_manifest(folder)["counts"]
    for split in SPLITS:
        for number in range(-(-counts.get(split, 0) // SHARD_IMAGES)):
            yield split, number


def shard_path(place: Path, split: Split, number: int) -> Path:
    """Returns the path of a shard."""
    return place / f"{split}-{number:05d}.npz"


def compute_missing(folder: Path, place: Path, network: FeatureNetwork, share: slice) -> None:
    """Computes those shards of a share that are missing.

    Raises:
        UserError: an image can't be read, or a file can't be written.
    """
    own = [shard for shard in list(list_shards(folder))[share] if not shard_path(place, *shard).exists()]
    if not own:
        return
    create_folder(place)
    extract = compile_extraction(network)
    images = {split: load_split(folder, split) for split in sorted({split for split, _ in own})}
    total = sum(min(SHARD_IMAGES, len(images[split]) - number * SHARD_IMAGES) for split, number in own)
    with ProgressBar("Extracting features", total, "image") as progress:
        for split, number in own:
            content = compute_shard(images[split], number, network, extract, progress)
            write_whole(shard_path(place, split, number), content)


def compute_shard(
    images: StoredImages, number: int, network: FeatureNetwork, extract: ExtractBatch, progress: ProgressBar
) -> bytes:
    """Computes the features of the images of a shard; returns the content of its file."""
    indices = range(number * SHARD_IMAGES, min((number + 1) * SHARD_IMAGES, len(images)))
    keys, both = [], []
    for first in range(0, len(indices), BATCH // 2):
        prepared = []
        for index in indices[first : first + BATCH // 2]:
            stored = images[index]
            pixels = decode_pixels(stored.encoded)
            keys.append(stored.key)
            prepared += [network.prepare(pixels), network.prepare(np.ascontiguousarray(pixels[:, ::-1]))]
            progress.update()
        both.append(extract(prepared).pooled)
    features = np.concatenate(both).astype(np.float16)
    file = io.BytesIO()
    np.savez(file, keys=np.array(keys), plain=features[::2], mirrored=features[1::2])
    return file.getvalue()


def read_shard(
    path: Path,
) -> tuple[list[str], Float16[np.ndarray, "images features"], Float16[np.ndarray, "images features"]]:
    """Returns the keys of a shard's images, and their features: plain and mirrored.

    Raises:
        UserError: the file is damaged.
    """
    try:
        with path.open("rb") as file, opened_arrays(file) as arrays:
            return arrays["keys"].tolist(), arrays["plain"], arrays["mirrored"]
    except (OSError, KeyError, ArrayFileError) as error:
        raise UserError(f"{path} can't be read ({error}): remove it, and run the same command again") from None
