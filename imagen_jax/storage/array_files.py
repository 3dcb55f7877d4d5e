"""A reader for untrusted ``.npz`` files: arrays of numbers and text up to a max size, never pickles.

file -> names -> on access by name: header -> checks of type and size -> array
"""

import io
import math
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

ENDING = ".npy"
READERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
"""NumPy's readers of a header, by the file's version."""

NUMBERS_AND_TEXT = "biufcSU"
"""The accepted kinds of dtypes (``np.dtype.kind``)."""


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
    file = io.BytesIO(content)
    try:
        shape, is_column_major, dtype = READERS[np.lib.format.read_magic(file)](file)
    except Exception as error:
        # NumPy evaluates the header as a Python literal, which fails in many ways.
        raise ValueError(f"it has no header of an array ({type(error).__name__})") from None
    if dtype.hasobject:
        raise ValueError("it is a pickle, which could run code and is not opened")
    if dtype.kind not in NUMBERS_AND_TEXT or not dtype.itemsize:
        raise ValueError("it holds neither numbers nor text")
    start = file.tell()
    left = len(content) - start
    if math.prod(shape) * dtype.itemsize != left:
        values = f"{math.prod(shape)} values of {dtype.itemsize} bytes"
        raise ValueError(f"its header declares {values}, but {left} bytes follow")
    if dtype.kind == "U" and np.frombuffer(content, dtype.str[0] + "u4", offset=start).max(initial=0) > sys.maxunicode:
        raise ValueError("its text is not valid Unicode")
    return np.ndarray(shape, dtype, content, start, order="F" if is_column_major else "C")
