"""NumPy's ``.npz`` files that nobody checked: arrays of numbers and text, so large at most, and never a pickle.

file -> names -> of each that is asked for: header, its size checked -> array
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
"""Bytes of an array."""

OVERHEAD = 2**16
"""Bytes that come before an array's numbers, at most."""

MAX_HEADER_LENGTH = 10_000
MAX_AXES = 32
ENDING = ".npy"
# NumPy's own reader parses the header as Python, which fails in many ways and gives types of any kind.
BEGIN = re.compile(rb"\x93NUMPY(?P<version>[\1\2])\0", re.DOTALL)
HEADER = re.compile(
    rb"\s*\{\s*'descr'\s*:\s*'(?P<order>[<>=|]?)(?P<kind>[?biufcSUO])(?P<size>[0-9]{0,9})'\s*,"
    rb"\s*'fortran_order'\s*:\s*(?P<is_column_major>True|False)\s*,"
    rb"\s*'shape'\s*:\s*\(\s*(?P<shape>(?:[0-9]{1,18}\s*,\s*)*(?:[0-9]{1,18}\s*)?)\)\s*,?\s*\}\s*"
)


class ArrayFileError(ValueError):
    """A file that is no ``.npz``, or an array in it that can't be read."""


class Arrays:
    """The arrays of a file; each is read when it is asked for, which raises ``ArrayFileError`` where it can't be.

    Args:
        archive: the file, open.
        most: bytes that an array may have.
    """

    def __init__(self, archive: zipfile.ZipFile, most: int):
        self._archive, self._most = archive, most
        self._names = [name.removesuffix(ENDING) for name in archive.namelist() if name.endswith(ENDING)]

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self:
            raise KeyError(name)
        try:
            return parse_array(read_member(self._archive, name + ENDING, self._most + OVERHEAD))
        except DAMAGED_MEMBER as error:
            raise ArrayFileError(f"the array {name!a} can't be read: {error}") from None

    def get(self, name: str) -> np.ndarray | None:
        """An array, or None where there is none of that name."""
        if name not in self:
            return None
        return self[name]

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)


@contextmanager
def opened_arrays(source: Any, most: int = MAX_BYTES) -> Iterator[Arrays]:
    """Opens a file.

    Args:
        source: it, open, which can seek.
        most: bytes that an array may have.

    Raises:
        ArrayFileError: it is no ``.npz``.
        OSError: it can't be read.
    """
    try:
        archive = zipfile.ZipFile(source)
    except DAMAGED_MEMBER as error:
        raise ArrayFileError(str(error)) from None
    with archive:
        yield Arrays(archive, most)


def parse_array(content: bytes) -> np.ndarray:
    """The array that a ``.npy`` file's bytes hold.

    Raises:
        ValueError: they hold none, or a pickle.
    """
    begin = BEGIN.match(content)
    if begin is None:
        raise ValueError("it does not begin as an array does")
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
        raise ValueError(f"its header speaks of {math.prod(shape)} values of {dtype.itemsize} bytes, and it has {left}")
    if dtype.kind == "U" and np.frombuffer(content, dtype.str[0] + "u4", offset=end).max(initial=0) > sys.maxunicode:
        raise ValueError("it holds text of no characters")
    return np.ndarray(shape, dtype, content, end, order="F" if header["is_column_major"] == b"True" else "C")
