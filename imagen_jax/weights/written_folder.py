"""Writes a folder of weights: a safetensors file, files beside it, and the checksums of all.

The last files are those that make a folder complete, such as a config, so an interrupted export is not taken for one.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from imagen_jax.errors import UserError, lookup
from imagen_jax.storage.paths import Path, checksum_of, create_folder, write_whole, writing
from imagen_jax.weights.checksums import write_checksums

STORED = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
"""Dtypes of exported parameters. bfloat16 halves the file and keeps eight significant bits of each number."""

NOTHING: Mapping[str, bytes] = {}


def write_weights(
    folder: Path,
    name: str,
    tensors: Mapping[str, np.ndarray],
    dtype: str,
    last: Mapping[str, bytes],
    beside: Mapping[str, bytes] = NOTHING,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes a safetensors file, files beside it, checksums of all, and the last files, in this order.

    Args:
        folder: the output folder, created if missing.
        name: the name of the safetensors file.
        tensors: tensors by name.
        dtype: the dtype of the stored tensors, a key of ``STORED``.
        last: contents of the files that make the folder complete, by name.
        beside: contents of other files, by name.
        metadata: metadata of the safetensors file.

    Raises:
        UserError: the dtype is unknown, or a file can't be written.
    """
    kind = lookup(STORED, dtype, "dtype")
    try:
        create_folder(folder)
        with writing(folder / name) as file:
            stored = {key: np.asarray(tensor, kind, order="C") for key, tensor in tensors.items()}
            save_file(stored, file, dict(metadata) if metadata else None)
            checksums = {name: checksum_of(file)}
        for key, content in beside.items():
            write_whole(folder / key, content)
        contents = {**beside, **last}
        checksums |= {key: hashlib.sha256(content).hexdigest() for key, content in contents.items()}
        write_checksums(folder, checksums)
        for key, content in last.items():
            write_whole(folder / key, content)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{folder} can't be written to ({error}): make room or choose another folder") from error


def write_json(folder: Path, name: str, contents: Mapping[str, Any]) -> None:
    """Writes a JSON file, for a folder without weights.

    Raises:
        UserError: the file can't be written.
    """
    try:
        create_folder(folder)
        write_whole(folder / name, (json.dumps(contents, indent=2, sort_keys=True) + "\n").encode())
    except OSError as error:
        raise UserError(f"{folder} can't be written to ({error}): make room or choose another folder") from error
