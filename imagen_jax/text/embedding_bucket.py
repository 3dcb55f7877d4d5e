"""One file of embeddings: those of the captions whose hashes fall into its range, unpadded, in bfloat16.

    high     (captions,) uint64, ascending: the first eight bytes of each caption's sha256
    low      (captions,) uint64: the next eight
    offsets  (captions + 1,) int64: the tokens of caption i are rows offsets[i] to offsets[i + 1]
    tokens   (all tokens, width) bfloat16

A safetensors file, and mapped into memory: of a file of any size only the pages are read that a caption lies on. The
captions themselves are not in it; that two of a billion have the same 128 bits happens with a chance of 1e-21.
"""

import hashlib
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import ml_dtypes
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from imagen_jax.errors import UserError
from imagen_jax.storage.paths import Path, checksum_of, writing

Hash = tuple[int, int]
TENSORS: dict[str, np.dtype] = {
    "high": np.dtype(np.uint64),
    "low": np.dtype(np.uint64),
    "offsets": np.dtype(np.int64),
    "tokens": np.dtype(ml_dtypes.bfloat16),
}


def hash_caption(caption: str) -> Hash:
    """The first 128 bits of a caption's sha256, in halves."""
    digest = hashlib.sha256(caption.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big"), int.from_bytes(digest[8:16], "big")


class Bucket(NamedTuple):
    """The tensors of a file, mapped."""

    high: np.ndarray
    low: np.ndarray
    offsets: np.ndarray
    tokens: np.ndarray

    def find(self, wanted: Hash) -> np.ndarray | None:
        """A caption's ``(tokens, width)`` bfloat16 embedding; None where it has none."""
        row = int(np.searchsorted(self.high, np.uint64(wanted[0])))
        while row < len(self.high) and int(self.high[row]) == wanted[0]:
            if int(self.low[row]) == wanted[1]:
                return np.asarray(self.tokens[int(self.offsets[row]) : int(self.offsets[row + 1])])
            row += 1
        return None


def write_bucket(path: Path, embeddings: Mapping[str, np.ndarray], width: int) -> tuple[int, str]:
    """Writes the file of some captions' ``(tokens, width)`` embeddings, of which no reader ever sees half.

    Returns:
        Its size in bytes, and its sha256.

    Raises:
        UserError: the disk is full.
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
            f"the embeddings {path} cannot be written ({error}): make room there or choose another folder"
        ) from error


def map_bucket(path: pathlib.Path) -> Bucket:
    """Maps a file.

    Raises:
        UserError: it is not one of these, or is cut short.
    """
    try:
        # Mapped once: each map keeps the file open.
        content = np.memmap(path, np.uint8, "r")
        length = int.from_bytes(content[:8].tobytes(), "little")
        header = json.loads(content[8 : 8 + length].tobytes())
        arrays = {}
        for name, dtype in TENSORS.items():
            begin, end = header[name]["data_offsets"]
            shape = tuple(header[name]["shape"])
            if int(np.prod(shape)) * dtype.itemsize != end - begin:
                raise ValueError(f"{name} has another size than it says")
            arrays[name] = content[8 + length + begin : 8 + length + end].view(dtype).reshape(shape)
        return Bucket(**arrays)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} is no readable file of embeddings ({error}): delete its folder and it is built anew"
        ) from error
