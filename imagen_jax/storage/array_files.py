"""A reader for untrusted ``.npz`` files: arrays of numbers and text up to a max size, never pickles.

file -> names -> on access by name: header -> checks of type and size -> array
"""

import math
import re
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from imagen_jax.storage.zip_members import DAMAGED_MEMBER, read_member

MAX_BYTES = 2**28
"""Max size of an array in bytes, by default."""

OVERHEAD = 2**16
"""Max bytes before an array's data in a ``.npy`` file."""

MAX_HEADER_LENGTH = 10_000
MAX_AXES = 32
ENDING = ".npy"
# NumPy's reader evaluates the header as a Python literal, which fails in many ways and allows any dtype.
BEGIN = re.compile(rb"\x93NUMPY(?P<version>[\1\2])\0", re.DOTALL)
HEADER = re.compile(
    rb"\s*\{\s*'descr'\s*:\s*'(?P<order>[<>=|]?)(?P<kind>[?biufcSUO])(?P<size>[0-9]{0,9})'\s*,"
    rb"\s*'fortran_order'\s*:\s*(?P<is_column_major>True|False)\s*,"
    rb"\s*'shape'\s*:\s*\(\s*(?P<shape>(?:[0-9]{1,18}\s*,\s*)*(?:[0-9]{1,18}\s*)?)\)\s*,?\s*\}\s*"
)


class ArrayFileError(ValueError):
    """A file is not a valid ``.npz``, or an array in it can't be read."""


class Arrays:
    """The arrays of a ``.npz`` file by name. ``arrays[name]`` reads an array from the file at each access.

    Args:
        archive: the opened file.
        max_bytes: max size of an array, in bytes.

    Raises:
        ArrayFileError: an accessed array can't be read.
        KeyError: there is no array of the accessed name.
    """

    def __init__(self, archive: zipfile.ZipFile, max_bytes: int):
        self._archive, self._max_bytes = archive, max_bytes
        self._names = [name.removesuffix(ENDING) for name in archive.namelist() if name.endswith(ENDING)]

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self:
            raise KeyError(name)
        try:
            return parse_array(read_member(self._archive, name + ENDING, self._max_bytes + OVERHEAD))
        except DAMAGED_MEMBER as error:
            raise ArrayFileError(f"the array {name!a} can't be read: {error}") from None

    def get(self, name: str) -> np.ndarray | None:
        """Returns an array, or None if there is no array of that name.

        Raises:
            ArrayFileError: the array can't be read.
        """
        if name not in self:
            return None
        return self[name]

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)


@contextmanager
def opened_arrays(source: Any, max_bytes: int = MAX_BYTES) -> Iterator[Arrays]:
    """Opens a ``.npz`` file for the duration of the block.

    Args:
        source: an opened, seekable binary file.
        max_bytes: max size of an array, in bytes.

    Raises:
        ArrayFileError: the file is not a valid ``.npz``.
        OSError: the file can't be read.
    """
    try:
        archive = zipfile.ZipFile(source)
    except DAMAGED_MEMBER as error:
        raise ArrayFileError(str(error)) from None
    with archive:
        yield Arrays(archive, max_bytes)


def parse_array(content: bytes) -> np.ndarray:
    """Parses the content of a ``.npy`` file.

    Raises:
        ValueError: the content is not a valid array of numbers or text, or is a pickle.
    """
    begin = BEGIN.match(content)
    if begin is None:
        raise ValueError("it is not a .npy array")
    width = 2 if begin["version"] == b"\1" else 4
    start = begin.end() + width
    end = start + int.from_bytes(content[begin.end() : start], "little")
    header = HEADER.fullmatch(content[start:end]) if end - start <= MAX_HEADER_LENGTH else None
    if header is None:
        raise ValueError("it has no header of an array of numbers or text")
    if header["kind"] == b"O":
        raise ValueError("it is a pickle, which could run code and is not opened")
    try:
        dtype = np.dtype(header["order"].decode() + header["kind"].decode() + header["size"].decode())
    except TypeError:
        raise ValueError("it is of an unknown type") from None
    shape = tuple(int(size) for size in header["shape"].split(b",") if size.strip())
    if len(shape) > MAX_AXES or max(shape, default=0) > len(content) + 2**32:
        raise ValueError("it has an impossible shape")
    left = len(content) - end
    if math.prod(shape) * dtype.itemsize != left:
        raise ValueError(
            f"its header declares {math.prod(shape)} values of {dtype.itemsize} bytes, but {left} bytes follow"
        )
    if dtype.kind == "U" and np.frombuffer(content, dtype.str[0] + "u4", offset=end).max(initial=0) > sys.maxunicode:
        raise ValueError("its text is not valid Unicode")
    return np.ndarray(shape, dtype, content, end, order="F" if header["is_column_major"] == b"True" else "C")
