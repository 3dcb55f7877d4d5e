"""One file of embeddings, unpadded, in bfloat16, of the captions whose hashes are in one range.

    high     (captions,) uint64, ascending: the first eight bytes of each caption's sha256
    low      (captions,) uint64: the next eight
    offsets  (captions + 1,) int64: the tokens of caption i are rows offsets[i] to offsets[i + 1]
    tokens   (all tokens, width) bfloat16

It is a safetensors file. Its first three tensors are mapped into memory. A caption's tokens are read on demand,
directly into the caller's array. The file does not contain the captions themselves. The chance that two of a billion
captions have the same 128 bits is 1e-21.
"""

import hashlib
import math
import os
import pathlib
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

import ml_dtypes
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from imagen_jax.errors import UserError
from imagen_jax.storage.json_text import parse_json
from imagen_jax.storage.paths import Path, checksum_of, writing
from imagen_jax.storage.refusals import raise_if_denied

Hash = tuple[int, int]
TOKENS = np.dtype(ml_dtypes.bfloat16)
TENSORS: dict[str, np.dtype] = {
    "high": np.dtype(np.uint64),
    "low": np.dtype(np.uint64),
    "offsets": np.dtype(np.int64),
    "tokens": TOKENS,
}


def hash_caption(caption: str) -> Hash:
    """Returns the first 128 bits of a caption's sha256 as two 64-bit integers."""
    digest = hashlib.sha256(caption.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big"), int.from_bytes(digest[8:16], "big")


@dataclass(frozen=True, eq=False)
class Bucket:
    """An open file of embeddings, with its index mapped into memory.

    Attributes:
        high: the first eight bytes of each caption's sha256, ``(captions,)`` uint64, ascending.
        low: the next eight bytes, ``(captions,)`` uint64.
        offsets: the first row of each caption in ``tokens``, and the end, ``(captions + 1,)`` int64.
        width: the size of each token's embedding.
        file: the open file, for reading tokens.
        start: the byte offset of the tokens in the file.
    """

    high: np.ndarray
    low: np.ndarray
    offsets: np.ndarray
    width: int
    file: BinaryIO
    start: int

    def find(self, wanted: Hash) -> "Found | None":
        """Returns the location of a caption's embedding, or None if the bucket does not contain it."""
        row = int(self.high.searchsorted(np.uint64(wanted[0])))
        while row < len(self.high) and self.high.item(row) == wanted[0]:
            if self.low.item(row) == wanted[1]:
                first = self.offsets.item(row)
                return Found(self, first, self.offsets.item(row + 1) - first)
            row += 1
        return None


class Found(NamedTuple):
    """The location of a caption's embedding.

    Attributes:
        bucket: the file that contains it.
        first: its first row of ``tokens``.
        tokens: its number of tokens.
    """

    bucket: Bucket
    first: int
    tokens: int

    def read(self, into: np.ndarray) -> None:
        """Reads the first tokens, as many as ``into`` has rows.

        Args:
            into: the destination, ``(at most tokens, width)`` bfloat16, contiguous.

        Raises:
            UserError: the file can no longer be read, or was truncated.
        """
        offset = self.bucket.start + self.first * self.bucket.width * TOKENS.itemsize
        try:
            read = os.preadv(self.bucket.file.fileno(), [into.view(np.uint8).reshape(-1).data], offset)
        except OSError as error:
            name = self.bucket.file.name
            raise UserError(
                f"{name} can no longer be read ({error}): check the disk, then run the same command again"
            ) from error
        if read != into.nbytes:
            raise UserError(f"{self.bucket.file.name} was truncated while it was read: delete its folder")


def write_bucket(path: Path, embeddings: Mapping[str, np.ndarray], width: int) -> tuple[int, str]:
    """Writes the ``(tokens, width)`` embeddings of some captions into one file. Readers never see a partial file.

    Returns:
        The size of the file in bytes, and its sha256.

    Raises:
        UserError: the file cannot be written, for example because the disk is full.
    """
    hashed: list[tuple[Hash, np.ndarray]] = sorted(
        ((hash_caption(caption), rows) for caption, rows in embeddings.items()), key=lambda item: item[0]
    )
    rows: Sequence[np.ndarray] = [rows for _, rows in hashed]
    empty = np.zeros((0, width), ml_dtypes.bfloat16)
    tensors = {
        "high": np.array([both[0] for both, _ in hashed], np.uint64),
        "low": np.array([both[1] for both, _ in hashed], np.uint64),
        "offsets": np.cumsum([0, *map(len, rows)], dtype=np.int64),
        "tokens": np.concatenate([empty, *rows]).astype(ml_dtypes.bfloat16),
    }
    try:
        with writing(path) as file:
            save_file(tensors, file)
            return file.stat().st_size, checksum_of(file)
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"the embeddings {path} cannot be written ({error}): free space there, or choose another folder"
        ) from error


def check_index(high: np.ndarray, low: np.ndarray, offsets: np.ndarray, tokens: np.ndarray) -> None:
    """Checks that the tensors of a file are consistent.

    Raises:
        ValueError: their shapes differ, or the offsets do not match the tokens.
    """
    captions = len(high) if high.ndim == 1 else -1
    if low.shape != (captions,) or offsets.shape != (captions + 1,) or tokens.ndim != 2:
        raise ValueError("its tensors have different numbers of captions")
    if offsets[0] != 0 or offsets[-1] != len(tokens) or (offsets[1:] < offsets[:-1]).any():
        raise ValueError("its offsets do not match its tokens")


def open_bucket(path: pathlib.Path) -> Bucket:
    """Opens a file of embeddings.

    Raises:
        UserError: the file is not readable, not a file of embeddings, or truncated.
    """
    try:
        # A plain array: slicing it is ten times as fast as slicing a memmap.
        content = np.asarray(np.memmap(path, np.uint8, "r"))
        length = int.from_bytes(content[:8].tobytes(), "little")
        header = parse_json(content[8 : 8 + length].tobytes())
        arrays = {}
        for name, dtype in TENSORS.items():
            begin, end = header[name]["data_offsets"]
            shape = tuple(header[name]["shape"])
            if not all(type(number) is int and number >= 0 for number in (begin, end, *shape)):
                raise ValueError(f"{name} has a size or an offset that is not a whole number of at least 0")
            if math.prod(shape) * dtype.itemsize != end - begin:
                raise ValueError(f"the size of {name} does not match its shape")
            arrays[name] = content[8 + length + begin : 8 + length + end].view(dtype).reshape(shape)
        tokens = arrays.pop("tokens")
        check_index(**arrays, tokens=tokens)
        start = 8 + length + header["tokens"]["data_offsets"][0]
        file = path.open("rb", buffering=0)
        bucket = Bucket(**arrays, width=tokens.shape[1], file=file, start=start)
        weakref.finalize(bucket, file.close)
        return bucket
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise_if_denied(error, path)
        raise UserError(
            f"{path} is not a readable file of embeddings ({error}): delete its folder, and the next run rebuilds it"
        ) from error
