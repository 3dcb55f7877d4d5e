"""Stores statistics of features on disk. They are measured once, and used in all evaluations with the same key.

    Moments, key -> save_statistics -> FILE.npz -> load_statistics, the same key -> Moments
    the npz files of pytorch-fid, clean-fid and ADM -> read_published_statistics -> Gaussian

A file contains ``mu`` and ``sigma``, under these common names so that other programs can read it. It also contains
``pictures``, and ``key`` as JSON: the properties that the numbers depend on (network, resize, weights, data set…). It
contains no pickle.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np

from imagen_jax.errors import UserError
from imagen_jax.evaluation.metrics.frechet import Gaussian, Moments
from imagen_jax.storage.array_files import Arrays, opened_arrays
from imagen_jax.storage.json_text import parse_json
from imagen_jax.storage.paths import Path, writing
from imagen_jax.storage.refusals import raise_if_denied
from imagen_jax.storage.settings import first_difference
from imagen_jax.weights.named_tensors import list_names

Key = Mapping[str, str | int | float | bool | None]

MAX_WIDTH = 4096
"""The max number of features per image. Inception has half as many."""

MAX_BYTES = 8 * MAX_WIDTH**2
"""The max size of a matrix in bytes."""

SINGLE_ARRAY = b"\x93NUMPY"


def save_statistics(path: Path, moments: Moments, key: Key) -> None:
    """Writes the moments of features and the key that identifies them.

    Args:
        path: the npz file, local or in a bucket. Readers never see a partial file.
        moments: the moments of at least two images.
        key: the properties of the network, the images and their preparation, as plain values.

    Raises:
        UserError: there are fewer than two images, or the file can't be written.
    """
    if moments.pictures < 2:
        raise UserError(f"statistics need at least 2 images, not {moments.pictures}: give more")
    text = json.dumps(dict(key), ensure_ascii=False, allow_nan=False)
    arrays = {"mu": moments.mean, "sigma": moments.covariance, "pictures": moments.pictures, "key": text}
    try:
        with writing(path) as file, file.open("wb") as stream:
            np.savez(stream, **arrays)  # type: ignore[arg-type]
    except OSError as error:
        raise UserError(
            f"{path} can't be written ({error.strerror or error}): make room or choose another path"
        ) from error


def load_statistics(path: Path, key: Key) -> Moments:
    """Reads a file of ``save_statistics``, if it has the same key.

    Raises:
        UserError: the file can't be read, is not one of ours, is damaged, or has another key. The message names the
            first entry that differs, and both values.
    """
    with opened(path) as file:
        if "key" not in file or "pictures" not in file:
            raise UserError(
                f"{path} does not identify the images of its statistics: measure them again, or choose another file"
            )
        before = parse_json(str(file["key"]))
        if not isinstance(before, dict):
            raise ValueError("its key is not a JSON object")
        different = first_difference(before, key)
        if different is not None:
            raise UserError(
                f"{path} contains statistics with {different.name} {different.before!r}, but this run has "
                f"{different.now!r}: measure them again, or choose another file"
            )
        mean, covariance = read_arrays(path, file)
        count = int(file["pictures"])
    return Moments(count, mean, covariance * (count - 1))


def read_published_statistics(path: Path) -> Gaussian:
    """Reads an npz file of ``mu`` and ``sigma`` as pytorch-fid, clean-fid and ADM publish them, or one of ours.

    Published files contain neither the number of images nor the network. The caller must make sure that the network and
    the resizing are the same: otherwise a distance is not an FID.

    Raises:
        UserError: the file can't be read, has other contents or is damaged.
    """
    with opened(path) as file:
        mean, covariance = read_arrays(path, file)
        return Gaussian(int(file["pictures"]) if "pictures" in file else None, mean, covariance)


@contextmanager
def opened(path: Path) -> Iterator[Arrays]:
    """Opens an npz file without pickles. Arrays are read on access, so unused ones cost nothing.

    Raises:
        UserError: the file can't be read, or an array that the block accesses is damaged.
    """
    try:
        with path.open("rb") as stream:
            if stream.read(len(SINGLE_ARRAY)) == SINGLE_ARRAY:
                raise UserError(f"{path} contains a single array and no statistics: give an npz file with mu and sigma")
            stream.seek(0)
            with opened_arrays(stream, MAX_BYTES) as file:
                yield file
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist: check the path, or measure the statistics first") from error
    # Errors of reading arrays, of parsing JSON, and of converting the number of images.
    except (OSError, ValueError, TypeError, OverflowError) as error:
        raise_if_denied(error, path)
        raise UserError(
            f"{path} can't be read as statistics ({error}): it is damaged or another kind of file; download it or "
            "measure it again"
        ) from error


def read_arrays(path: Path, file: Arrays) -> tuple[np.ndarray, np.ndarray]:
    """Returns the mean and the covariance, in float64.

    Raises:
        UserError: one of them is missing, or they are not valid statistics.
    """
    missing = [name for name in ("mu", "sigma") if name not in file]
    if missing:
        raise UserError(
            f"{path} has no array {missing[0]!r}, only {list_names(list(file))}: give a file with mu and sigma"
        )
    mean, covariance = file["mu"], file["sigma"]
    if mean.ndim != 1 or covariance.shape != (mean.size, mean.size) or mean.size > MAX_WIDTH:
        raise UserError(
            f"{path} has a mean of shape {mean.shape} and a covariance of shape {covariance.shape}, which don't match "
            f"or have more than {MAX_WIDTH} features: download it or measure it again"
        )
    if not all(array.dtype.kind in "fiu" for array in (mean, covariance)):
        raise UserError(f"{path} has arrays that are not of real numbers: download it or measure it again")
    mean, covariance = mean.astype(np.float64), covariance.astype(np.float64)
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise UserError(f"{path} has numbers that are not finite: download it or measure it again")
    scale = float(np.abs(covariance).max(initial=0.0))
    if (
        np.abs(covariance - covariance.T).max(initial=0.0) > 1e-5 * scale
        or np.diagonal(covariance).min(initial=0.0) < 0
    ):
        raise UserError(f"{path} has a sigma that is not a covariance matrix: download it or measure it again")
    return mean, covariance
