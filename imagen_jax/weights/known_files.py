"""Finds weights files that others publish, by name and sha256. It never downloads them.

    --FLAG=FILE                                                  any file; its sha256 is computed
    $IMAGEN_JAX_WEIGHTS, or else weights/ in the cache folder    the published file under its own name

``storage.local_copies`` defines the cache folder.
"""

import os
from typing import NamedTuple

from imagen_jax.errors import UserError
from imagen_jax.storage.local_copies import cache_folder, local_copy
from imagen_jax.storage.paths import Path, checksum_of, to_path
from imagen_jax.storage.refusals import raise_if_denied

FOLDER_VARIABLE = "IMAGEN_JAX_WEIGHTS"


class KnownFile(NamedTuple):
    """A published weights file.

    Attributes:
        what: the name of the network, as in "the weights of Inception-v3 are missing".
        name: the file name under which it is looked up.
        url: the download address.
        sha256: its checksum in hexadecimal digits.
    """

    what: str
    name: str
    url: str
    sha256: str


class FoundFile(NamedTuple):
    """A local file and its checksum.

    Attributes:
        path: the path of the file.
        sha256: its checksum in hexadecimal digits; differs from the published one if the user named another file.
    """

    path: Path
    sha256: str


def weights_folder() -> Path:
    """Returns the folder of published weights: ``IMAGEN_JAX_WEIGHTS``, or else ``weights`` in the cache folder.

    Raises:
        UserError: the variable names a location of an unknown kind.
    """
    named = os.environ.get(FOLDER_VARIABLE)
    return to_path(os.path.expanduser(named)) if named else cache_folder() / "weights"


def find_known_file(path: str, known: KnownFile, flag: str) -> FoundFile:
    """Finds a weights file and computes its sha256.

    Args:
        path: the file that the user named, local or in a bucket, which need not be the published one; "" for the
            published file in ``weights_folder()``.
        known: the published file.
        flag: the name of the flag for ``path``, without dashes.

    Raises:
        UserError: the file is missing, can't be read, or has the published file's name but another sha256.
    """
    location = to_path(path) if path else weights_folder() / known.name
    try:
        file = local_copy(location)
        sha256 = checksum_of(file)
    except FileNotFoundError as error:
        if path:
            raise UserError(f"--{flag}={path} does not exist: name a file, or leave out the flag") from error
        raise UserError(
            f"the weights of {known.what} are missing: download {known.url} (sha256 {known.sha256}) to {location}, "
            f"or name the file with --{flag}=FILE"
        ) from error
    except OSError as error:
        raise_if_denied(error, location)
        raise UserError(f"{location} can't be read ({error.strerror}): name a weights file with --{flag}") from error
    if not path and sha256 != known.sha256:
        raise UserError(
            f"{location} has the sha256 {sha256}, not the published {known.sha256}: download {known.url} again, "
            f"or pass --{flag}={location} to use this file"
        )
    return FoundFile(file, sha256)
