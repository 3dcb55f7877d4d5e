"""Writes and verifies the checksums of exports, in the format of ``sha256sum --check SHA256SUMS``.

    FOLDER/config.json, FOLDER/model.safetensors -> FOLDER/SHA256SUMS -> verified before the two files are read

A safetensors file contains no checksum, so a flipped bit would change a parameter silently. A folder without
``SHA256SUMS`` is read without verification: exports of earlier versions and most weights from elsewhere have none.
"""

import re
from collections.abc import Collection, Mapping

from imagen_jax.errors import UserError
from imagen_jax.storage.local_copies import local_copy
from imagen_jax.storage.names import stays_below
from imagen_jax.storage.paths import Path, checksum_of, write_whole

SUMS = "SHA256SUMS"
LINE = re.compile(rb"([0-9a-f]{64}) [ *]([!-~]+)\n")
MAX_BYTES = 2**16
"""The max size of ``SHA256SUMS`` in bytes."""


def write_checksums(folder: Path, checksums: Mapping[str, str]) -> None:
    """Writes the checksums of some files of a folder.

    Args:
        folder: the folder of the files.
        checksums: maps the name of each file to its sha256 in hexadecimal digits.

    Raises:
        OSError: ``SHA256SUMS`` can't be written.
    """
    write_whole(folder / SUMS, "".join(f"{sha256}  {name}\n" for name, sha256 in sorted(checksums.items())).encode())


def check_checksums(folder: Path, only: Collection[str] = ()) -> None:
    """Compares the files of a folder with ``SHA256SUMS``, if it exists.

    Args:
        folder: the folder.
        only: the names of the files to compare; empty for all.

    Raises:
        UserError: a file is missing or differs, or ``SHA256SUMS`` is damaged. The message names the file.
        OSError: a file can't be read.
    """
    path = folder / SUMS
    if not path.is_file():
        return
    content = path.read_bytes()[: MAX_BYTES + 1]
    found = [(sha256.decode(), name.decode()) for sha256, name in LINE.findall(content)]
    written = b"".join(match[0] for match in LINE.finditer(content))
    if not found or written != content or not all(stays_below(name) for _, name in found):
        raise UserError(f"{path} is damaged: copy the folder again")
    for sha256, name in found:
        if only and name not in only:
            continue
        file = folder / name
        if not file.is_file():
            raise UserError(f"{file} is missing, although {path} names it: copy the folder again")
        if checksum_of(local_copy(file)) != sha256:
            raise UserError(
                f"the checksum of {file} is not the one in {path}: copy the folder again, or, if you changed the file "
                f"yourself, remove its line from {path}"
            )
