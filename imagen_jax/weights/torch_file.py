"""Reads the tensors of a PyTorch file without executing code from it (see ``torch_pickle``).

There are two layouts:

    legacy, before PyTorch 1.6:  pickle(magic number), pickle(protocol), pickle(machine), pickle(state dict),
                                 pickle(storage keys), then for each storage: number of elements (8 bytes), elements
    zip:                         X/data.pkl with the state dict, X/data/KEY with the elements of a storage

A TorchScript archive is a zip too, with a tree of modules instead of the state dict (see ``torch_script``). The code in
it is not even read.
"""

import math
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from imagen_jax.errors import UserError
from imagen_jax.storage.refusals import raise_if_denied
from imagen_jax.weights.torch_pickle import Storage, Tensor, TensorUnpickler, unpickle
from imagen_jax.weights.torch_script import CONSTANTS, Module, ModuleUnpickler, tensors_below

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
ZIP_MAGIC = b"PK\x03\x04"

MAX_SHARED = 4

DAMAGE = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
    zipfile.BadZipFile,
)
"""The exceptions that damage can cause: a broken pickle can apply any instruction to any object."""


def read_torch_file(path: Path) -> dict[str, np.ndarray]:
    """Reads a ``.pth`` or ``.pt`` file of either layout: a state dict (a dict of plain tensors), or TorchScript.

    Returns:
        A copy of each tensor by its name, in the order of the file.

    Raises:
        UserError: the file contains anything but plain tensors, is damaged or truncated, or can't be opened.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise_if_denied(error, path)
        raise UserError(f"{path} can't be read ({error.strerror}): give an existing PyTorch file") from error
    read_layout = read_zip if content.startswith(ZIP_MAGIC) else read_legacy
    try:
        state, storages = read_layout(content, path)
        check_total(state, len(content))
        return {name: view_tensor(tensor, storages[tensor.storage]) for name, tensor in state.items()}
    except DAMAGE as error:
        raise UserError(f"{path} is damaged or truncated, or not a PyTorch file ({error}): fetch it again") from error


def check_total(state: dict[str, Tensor], size: int) -> None:
    """Checks that the tensors are not much larger than the file. Tied weights share a storage, but at most in pairs.

    Raises:
        ValueError: they are more than ``MAX_SHARED`` times as large: a small file could otherwise fill the memory.
    """
    total = sum(math.prod(tensor.shape) * tensor.storage.dtype.itemsize for tensor in state.values())
    if total > MAX_SHARED * size:
        raise ValueError(f"its tensors have {total} bytes, and the file {size}")


def read_legacy(content: bytes, path: Path) -> tuple[dict[str, Tensor], dict[Storage, np.ndarray]]:
    """Reads the layout before PyTorch 1.6.

    Raises:
        ValueError: the file has another layout, or a storage is incomplete.
        UserError: the pickle contains anything but plain tensors; see ``unpickle`` and ``check_state``.
    """
    file = BytesIO(content)
    if unpickle(file, path) != MAGIC_NUMBER:
        raise ValueError("its magic number differs")
    unpickle(file, path)
    machine = unpickle(file, path)
    if not machine["little_endian"]:
        raise ValueError("it is from a big-endian machine")
    state = check_state(unpickle(file, path), path)
    by_key = storages_of(state)
    storages = {}
    keys = unpickle(file, path)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise ValueError("its storages have no names")
    for key in keys:
        # Raises for a storage without a tensor: its dtype, and so its size in bytes, is unknown.
        storage = by_key[key]
        if file.read(8) != storage.size.to_bytes(8, "little"):
            raise ValueError(f"storage {key} does not begin with its size, {storage.size}")
        storages[storage] = to_array(file.read(storage.size * storage.dtype.itemsize), storage)
    return state, storages


def read_zip(content: bytes, path: Path) -> tuple[dict[str, Tensor], dict[Storage, np.ndarray]]:
    """Reads the layout of PyTorch 1.6 and later.

    Raises:
        ValueError: the file has another layout, or a storage is incomplete.
        UserError: the pickle contains anything but plain tensors; see ``unpickle`` and ``check_state``.
    """
    with zipfile.ZipFile(BytesIO(content)) as archive:
        infos = {info.filename.partition("/")[2]: info for info in archive.infolist()}

        def read(name: str) -> bytes:
            # PyTorch compresses only code, and uncompressed entries can't grow when they are read.
            if infos[name].compress_type != zipfile.ZIP_STORED:
                raise ValueError("it is compressed")
            return archive.read(infos[name])

        if "byteorder" in infos and read("byteorder") != b"little":
            raise ValueError("it is from a big-endian machine")
        unpickler = ModuleUnpickler if CONSTANTS in infos else TensorUnpickler
        state = check_state(unpickle(BytesIO(read("data.pkl")), path, unpickler), path)
        named = storages_of(state)
        # Several entries of the zip can refer to the same bytes.
        if (total := sum(each.size * each.dtype.itemsize for each in named.values())) > len(content):
            raise ValueError(f"its storages have {total} bytes, and the file {len(content)}")
        storages = {each: to_array(read(f"data/{key}"), each) for key, each in named.items()}
    return state, storages


def check_state(state: Any, path: Path) -> dict[str, Tensor]:
    """Returns a state dict if it contains only tensors, or the tensors of a module tree by their dotted names.

    Raises:
        UserError: it is something else. The message names the first entry that is not a tensor.
    """
    if isinstance(state, Module):
        return dict(tensors_below(state))
    if not isinstance(state, dict):
        raise UserError(f"{path} has no state dict: save model.state_dict() and nothing else")
    for name, tensor in state.items():
        if not isinstance(tensor, Tensor):
            raise UserError(
                f"{path} contains {name!r}, which is not a tensor: save model.state_dict() and nothing else"
            )
    return state


def storages_of(state: dict[str, Tensor]) -> dict[str, Storage]:
    """Returns the storages of the tensors, by key.

    Raises:
        ValueError: two tensors have different storages with the same key.
    """
    storages: dict[str, Storage] = {}
    for tensor in state.values():
        storage = storages.setdefault(tensor.storage.key, tensor.storage)
        if storage != tensor.storage:
            raise ValueError(f"two tensors disagree about storage {storage.key}")
    return storages


def to_array(content: bytes, storage: Storage) -> np.ndarray:
    """Returns the numbers of a storage.

    Raises:
        ValueError: the number of bytes does not match the size of the storage.
    """
    if len(content) != storage.size * storage.dtype.itemsize:
        raise ValueError(f"storage {storage.key} should have {storage.size} elements and has {len(content)} bytes")
    return np.frombuffer(content, storage.dtype)


def view_tensor(tensor: Tensor, elements: np.ndarray) -> np.ndarray:
    """Returns the tensor as a separate array.

    Raises:
        ValueError: it extends beyond its storage, or repeats elements of it.
    """
    if min(tensor.offset, *tensor.shape, *tensor.strides, 0) < 0 or len(tensor.shape) != len(tensor.strides):
        raise ValueError(f"a tensor has shape {tensor.shape}, strides {tensor.strides} and offset {tensor.offset}")
    if 0 in tensor.shape:
        return np.zeros(tensor.shape, elements.dtype)
    last = tensor.offset + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.strides, strict=True))
    # The second check is for strides of zero, with which a small file could fill the memory.
    if last >= len(elements) or math.prod(tensor.shape) > len(elements):
        raise ValueError(f"a tensor of shape {tensor.shape} reaches beyond its storage of {len(elements)} elements")
    strides = [stride * elements.itemsize for stride in tensor.strides]
    return np.lib.stride_tricks.as_strided(elements[tensor.offset :], tensor.shape, strides, writeable=False).copy()
