"""Files of weights that others publish: known by their sha256, looked for in one place, and never fetched unasked.

    --FLAG=FILE                                                  any file; its sha256 says which
    $IMAGEN_JAX_WEIGHTS, or else weights/ in the cache folder    the published file under its own name

The cache folder is that of ``storage.local_copies``.
"""

import os
from typing import NamedTuple

from imagen_jax.errors import UserError
from imagen_jax.storage.local_copies import cache_folder, local_copy
from imagen_jax.storage.paths import Path, checksum_of, to_path
from imagen_jax.storage.refusals import raise_if_denied

FOLDER_VARIABLE = "IMAGEN_JAX_WEIGHTS"


class KnownFile(NamedTuple):
    """A file that somebody publishes.

    Attributes:
        what: whose weights they are, as in "the weights of Inception-v3 are not there".
        name: of the file, where it is looked for.
        url: where it is published.
        sha256: in hexadecimal digits.
    """

    what: str
    name: str
    url: str
    sha256: str


class FoundFile(NamedTuple):
    """A file of this machine, and which it is.

    Attributes:
        path: where it lies.
        sha256: in hexadecimal digits; not the published one's where another file was named.
    """

    path: Path
    sha256: str


def weights_folder() -> Path:
    """Where published weights are looked for: ``IMAGEN_JAX_WEIGHTS``, or else ``weights`` in the cache folder.

    Raises:
        UserError: the variable names a place of an unknown kind.
    """
    named = os.environ.get(FOLDER_VARIABLE)
    return to_path(os.path.expanduser(named)) if named else cache_folder() / "weights"


def find_known_file(path: str, known: KnownFile, flag: str) -> FoundFile:
    """Finds a file of weights.

    Args:
        path: what the user named, here or in a bucket, which may be another file than the published one; "" for the
            published one in its place.
        known: the published file.
        flag: the name of the flag that gives ``path``, without dashes.

    Raises:
        UserError: it is not there, can't be read, or is another file under the published one's name.
    """
    place = to_path(path) if path else weights_folder() / known.name
    try:
        file = local_copy(place)
        sha256 = checksum_of(file)
    except FileNotFoundError as error:
        if path:
            raise UserError(f"--{flag}={path} is not there: name a file, or leave the flag out") from error
        raise UserError(
            f"the weights of {known.what} are not there: fetch {known.url} (sha256 {known.sha256}) to {place}, "
            f"or name the file with --{flag}=FILE"
        ) from error
    except OSError as error:
        raise_if_denied(error, place)
        raise UserError(f"{place} can't be read ({error.strerror}): name a file of weights with --{flag}") from error
    if not path and sha256 != known.sha256:
        raise UserError(
            f"{place} is not the file of that name whose sha256 is {known.sha256}, its own is {sha256}: fetch "
            f"{known.url} again, or name the file with --{flag} if it is meant"
        )
    return FoundFile(file, sha256)
