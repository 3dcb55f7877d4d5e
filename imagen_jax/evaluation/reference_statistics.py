"""Statistics of features on disk: measured once, used for every evaluation that has the same key.

    Moments, key -> save_statistics -> FILE.npz -> load_statistics, the same key -> Moments
    the npz files of pytorch-fid, clean-fid and ADM -> read_published_statistics -> Gaussian

A file holds ``mu`` and ``sigma`` under the names of the field, so that its other programs read it too, and beside them
``pictures`` and ``key``: what the numbers depend on (network, resize, weights, data set…), as JSON. Nothing in it is a
pickle.
"""

import json
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
from numpy.lib.npyio import NpzFile

from imagen_jax.errors import UserError
from imagen_jax.evaluation.frechet import Gaussian, Moments
from imagen_jax.storage.json_text import parse_json
from imagen_jax.storage.paths import Path, writing
from imagen_jax.storage.settings import first_difference

Key = Mapping[str, str | int | float | bool | None]


def save_statistics(path: Path, moments: Moments, key: Key) -> None:
    """Writes the moments of features and what they depend on.

    Args:
        path: of an npz file, of this machine or in a bucket; seen only when it is whole.
        moments: of at least two pictures.
        key: of the network, the pictures and how they came to it; of plain values.

    Raises:
        UserError: there are fewer than two pictures, or the file can't be written.
    """
    if moments.pictures < 2:
        raise UserError(f"statistics take at least 2 pictures, not {moments.pictures}: give more of them")
    text = json.dumps(dict(key), ensure_ascii=False, allow_nan=False)
    arrays = {"mu": moments.mean, "sigma": moments.covariance, "pictures": moments.pictures, "key": text}
    try:
        with writing(path) as file, file.open("wb") as stream:
            np.savez(stream, **arrays)  # type: ignore[arg-type]
    except OSError as error:
        raise UserError(
            f"{path} can't be written ({error.strerror or error}): make room or choose another place"
        ) from error


def load_statistics(path: Path, key: Key) -> Moments:
    """Reads what ``save_statistics`` wrote, if it was of the same key.

    Raises:
        UserError: the file can't be read, is none of ours, is damaged, or has another key; names the first entry that
            differs, and both values.
    """
    with opened(path) as file:
        if "key" not in file or "pictures" not in file:
            raise UserError(
                f"{path} does not say what its statistics are of: measure them anew, or choose another file"
            )
        different = first_difference(parse_json(str(file["key"])), key)
        if different is not None:
            raise UserError(
                f"{path} holds statistics with {different.name} {different.before!r}, and here it is "
                f"{different.now!r}: measure them anew, or choose another file"
            )
        mean, covariance = read_arrays(path, file)
        pictures = int(file["pictures"])
    return Moments(pictures, mean, covariance * (pictures - 1))


def read_published_statistics(path: Path) -> Gaussian:
    """Reads an npz file of ``mu`` and ``sigma``, as pytorch-fid, clean-fid and ADM publish them, or one of ours.

    Such files say neither of how many pictures they are nor what made them, which the caller has to know: a distance is
    an FID only where it was the same network and the same way to resize.

    Raises:
        UserError: the file can't be read, has other contents or is damaged.
    """
    with opened(path) as file:
        mean, covariance = read_arrays(path, file)
        return Gaussian(int(file["pictures"]) if "pictures" in file else None, mean, covariance)


@contextmanager
def opened(path: Path) -> Iterator[NpzFile]:
    """Opens an npz file without pickles; arrays are read when they are asked for, and others in it cost nothing.

    Raises:
        UserError: it can't be read, or what is asked for within the block is damaged.
    """
    try:
        with path.open("rb") as stream:
            file = np.load(stream, allow_pickle=False)
            if not isinstance(file, NpzFile):
                raise UserError(f"{path} is a single array and not statistics: give an npz file with mu and sigma")
            with file:
                yield file
    except FileNotFoundError as error:
        raise UserError(f"{path} is not there: check the path, or measure the statistics first") from error
    # ValueError is NumPy's for a header that is none or a pickle, and JSON's; EOFError that of an empty file.
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(
            f"{path} can't be read as statistics ({error}): it is damaged or something else; fetch or measure it anew"
        ) from error


def read_arrays(path: Path, file: NpzFile) -> tuple[np.ndarray, np.ndarray]:
    """The mean and the covariance, in float64.

    Raises:
        UserError: one is missing, or they are not those of any features.
    """
    missing = [name for name in ("mu", "sigma") if name not in file]
    if missing:
        raise UserError(f"{path} has no array {missing[0]!r}, only {', '.join(file.files)}: give one with mu and sigma")
    mean, covariance = np.asarray(file["mu"], np.float64), np.asarray(file["sigma"], np.float64)
    if mean.ndim != 1 or covariance.shape != (mean.size, mean.size):
        raise UserError(
            f"{path} has a mean of shape {mean.shape} and a covariance of shape {covariance.shape}, which don't belong "
            "together: fetch or measure it anew"
        )
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise UserError(f"{path} has numbers that are not finite: fetch or measure it anew")
    scale = float(np.abs(covariance).max(initial=0.0))
    if (
        np.abs(covariance - covariance.T).max(initial=0.0) > 1e-5 * scale
        or np.diagonal(covariance).min(initial=0.0) < 0
    ):
        raise UserError(f"{path} has a matrix that is no covariance: fetch or measure it anew")
    return mean, covariance
