"""Features of many pictures, on disk in parts: cut at any time, what is there is kept, and hosts share the work.

    pictures, by number -> prepared by threads -> batches of one size, over the devices of this host -> FOLDER/00012.npz
    all parts -> features of all pictures, in order

FOLDER/key.json says of which pictures and by which network; with others the folder is refused.
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

ReadPicture = Callable[[int], HostPixels]
"""From a picture's number to the picture; several threads call it at once."""


def extract_in_parts(
    network: FeatureNetwork, folder: Path, key: Mapping[str, Any], count: int, read: ReadPicture
) -> FeatureSet:
    """Extracts what is missing in a folder, and reads all of it; every process of the run calls it.

    Args:
        network: of which features.
        folder: on a disk that all processes share.
        key: what the pictures are, as JSON can hold it.
        count: how many pictures.
        read: reads one.

    Raises:
        UserError: there are none, the folder is of other pictures or another network, pictures differ in size, or
            features are not finite.
    """
    if count < 1:
        raise UserError("there are no pictures to extract features of: check the folder or the split")
    mend = "choose another folder, or delete it, and its features are made anew"

    def keep() -> None:
        begun = any(file.suffix == ".npz" for file in files_in(folder))
        keep_settings(folder / KEY, {**network.key, **key}, "features", mend, begun=begun)

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
    processes.barrier(f"features in {folder.name} are there")
    return join_features([read_part(folder / name_of(number)) for number in range(len(parts))])


def extract_part(
    network: FeatureNetwork,
    extract: ExtractBatch,
    read: ReadPicture,
    numbers: Sequence[int],
    on_pictures: Callable[[int], Any],
) -> Iterator[FeatureSet]:
    """Extracts the features of a part batch by batch, while threads read and prepare the next batch."""
    batches = [numbers[first : first + BATCH] for first in range(0, len(numbers), BATCH)]
    with ThreadPoolExecutor(READERS) as pool:
        waiting = [pool.submit(lambda number: network.prepare(read(number)), number) for number in batches[0]]
        for following in [*batches[1:], ()]:
            prepared = [one.result() for one in waiting]
            waiting = [pool.submit(lambda number: network.prepare(read(number)), number) for number in following]
            yield extract(prepared)
            on_pictures(len(prepared))


def name_of(number: int) -> str:
    """The file of a part."""
    return f"{number:05d}.npz"


def write_part(path: Path, features: FeatureSet) -> None:
    """Writes a part, under its name only when it is whole.

    Raises:
        UserError: it can't be written.
    """
    write_arrays(path, {name: array for name, array in features._asdict().items() if array is not None})


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes arrays by name, under the file's name only when it is whole.

    Raises:
        UserError: it can't be written.
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
        UserError: it is not there or damaged.
    """
    try:
        with opened_arrays(io.BytesIO(path.read_bytes())) as arrays:
            return FeatureSet(arrays["pooled"], arrays.get("logits"))
    except (OSError, KeyError, ValueError) as error:
        raise_if_denied(error, path)
        raise UserError(f"{path} can't be read ({error}): delete it, and the same command makes it anew") from error


def is_whole(path: Path, count: int) -> bool:
    """Whether a part is there with so many pictures."""
    if not path.exists():
        return False
    try:
        return len(read_part(path).pooled) == count
    except UserError:
        return False
