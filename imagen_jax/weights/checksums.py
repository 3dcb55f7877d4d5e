"""The checksums of what we export, in the file that ``sha256sum --check SHA256SUMS`` reads too.

    FOLDER/config.json, FOLDER/model.safetensors -> FOLDER/SHA256SUMS -> compared before the two are read

A safetensors file has none of its own, so a bit that flips on a disk or on the way would change a parameter silently.
A folder without that file is read as it is: exports of earlier versions have none, nor do most weights from elsewhere.
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
"""Bytes of such a file."""


def write_checksums(folder: Path, checksums: Mapping[str, str]) -> None:
    """Writes the checksums of some files of a folder.

    Args:
        folder: of the files.
        checksums: the sha256 of each file, in hexadecimal digits, by its name.

    Raises:
        OSError: they can't be written.
    """
    write_whole(folder / SUMS, "".join(f"{sha256}  {name}\n" for name, sha256 in sorted(checksums.items())).encode())


def check_checksums(folder: Path, only: Collection[str] = ()) -> None:
    """Compares the files of a folder with their checksums, where it has any.

    Args:
        folder: the folder.
        only: names of the files to compare; empty: all.

    Raises:
        UserError: a file is missing or differs, or the checksums themselves are damaged; names the file.
        OSError: one can't be read.
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
            raise UserError(f"{file} is missing, and {path} names it: copy the folder again")
        if checksum_of(local_copy(file)) != sha256:
            raise UserError(
                f"{file} is not as it was written, for {path} has another checksum of it: copy the folder again, or "
                f"remove its line from {path} if you changed the file yourself"
            )
