"""Extracts features of many images into part files. Extraction is resumable and shared by all hosts.

    images, by number -> prepared by threads -> batches of one size, sharded over this host's devices
    -> FOLDER/00012.npz, one file a part
    all parts -> features of all images, in order

FOLDER/key.json identifies the images and the network. A folder with another key is rejected.
"""

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from imagen_jax.array_types import HostPixels
from imagen_jax.encoders.feature_network import FeatureNetwork
from imagen_jax.encoders.feature_networks import BATCH, ExtractBatch, FeatureSet, compile_extraction, join_features
from imagen_jax.errors import UserError
from imagen_jax.evaluation.metrics.frechet import check_finite
from imagen_jax.runtime import processes
from imagen_jax.storage.array_files import opened_arrays
from imagen_jax.storage.paths import Path, files_in, write_whole
from imagen_jax.storage.refusals import raise_if_denied
from imagen_jax.storage.settings import keep_settings

PART = 512
KEY = "key.json"
READERS = 8

ReadImage = Callable[[int], HostPixels]
"""Returns an image by its number; several threads call it at once."""


def extract_in_parts(
    network: FeatureNetwork, folder: Path, key: Mapping[str, Any], count: int, read: ReadImage
) -> FeatureSet:
    """Extracts the missing features of a folder, then reads and returns all. Every process must call it.

    Args:
        network: the feature network.
        folder: folder of the parts, on a disk that all processes share.
        key: facts that identify the images, JSON-serialisable.
        count: number of images, at least 1.
        read: function that reads an image by its number.

    Raises:
        UserError: there are no images, the folder is of other images or another network, images differ in size,
            features are not finite, or a part can't be read or written.
    """
    if count < 1:
        raise UserError("there are no images to extract features of: check the folder or the split")
    advice = "choose another folder, or delete this one, and its features are extracted again"

    def keep() -> None:
        begun = any(file.suffix == ".npz" for file in files_in(folder))
        keep_settings(folder / KEY, {**network.key, **key}, "features", advice, begun=begun)

    processes.run_on_process_zero_first(keep)
    parts = [range(first, min(first + PART, count)) for first in range(0, count, PART)]
    mine = range(jax.process_index(), len(parts), jax.process_count())
    missing = [number for number in mine if not is_whole(folder / name_of(number), len(parts[number]))]
    if missing:
        extract = compile_extraction(network)
        total = sum(len(parts[number]) for number in missing)
        with tqdm(desc=f"Features of {network.name}", total=total, unit="image", dynamic_ncols=True) as bar:
            for number in missing:
                features = join_features(list(extract_part(network, extract, read, parts[number], bar.update)))
                check_finite(features.pooled, parts[number].start)
                write_part(folder / name_of(number), features)
    processes.barrier(f"features in {folder.name} are complete")
    return join_features([read_part(folder / name_of(number)) for number in range(len(parts))])


def extract_part(
    network: FeatureNetwork,
    extract: ExtractBatch,
    read: ReadImage,
    numbers: Sequence[int],
    on_images: Callable[[int], Any],
) -> Iterator[FeatureSet]:
    """Yields the features of a part batch by batch, while threads read and prepare the next batch."""
    batches = [numbers[first : first + BATCH] for first in range(0, len(numbers), BATCH)]
    with ThreadPoolExecutor(READERS) as pool:
        waiting = [pool.submit(lambda number: network.prepare(read(number)), number) for number in batches[0]]
        for following in [*batches[1:], ()]:
            prepared = [one.result() for one in waiting]
            waiting = [pool.submit(lambda number: network.prepare(read(number)), number) for number in following]
            yield extract(prepared)
            on_images(len(prepared))


def name_of(number: int) -> str:
    """Returns the file name of a part."""
    return f"{number:05d}.npz"


def write_part(path: Path, features: FeatureSet) -> None:
    """Writes a part; the file appears only when it is complete.

    Raises:
        UserError: the file can't be written.
    """
    write_arrays(path, {name: array for name, array in features._asdict().items() if array is not None})


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes named arrays to an npz file, which appears only when it is complete.

    Raises:
        UserError: the file can't be written.
    """
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    try:
        write_whole(path, buffer.getvalue())
    except OSError as error:
        raise UserError(
            f"{path} can't be written ({error.strerror or error}): make room; the same command continues"
        ) from error


def read_part(path: Path) -> FeatureSet:
    """Reads a part.

    Raises:
        UserError: the file is missing or damaged.
    """
    try:
        with opened_arrays(io.BytesIO(path.read_bytes())) as arrays:
            return FeatureSet(arrays["pooled"], arrays.get("logits"))
    except (OSError, KeyError, ValueError) as error:
        raise_if_denied(error, path)
        raise UserError(f"{path} can't be read ({error}): delete it, and run the same command again") from error


def is_whole(path: Path, count: int) -> bool:
    """Returns whether a part is readable and has the features of ``count`` images."""
    if not path.exists():
        return False
    try:
        return len(read_part(path).pooled) == count
    except UserError:
        return False
