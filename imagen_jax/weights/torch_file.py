"""Reads the tensors of a PyTorch file, and executes nothing of it (see ``torch_pickle``).

There are two layouts:

    legacy, before PyTorch 1.6:  pickle(magic number), pickle(protocol), pickle(machine), pickle(state dict),
                                 pickle(storage keys), then for each storage: number of elements (8 bytes), elements
    zip:                         X/data.pkl with the state dict, X/data/KEY with the elements of a storage

A TorchScript archive is a zip too, with a tree of modules for the state dict (see ``torch_script``); the code in it is
not even read.
"""

import math
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from imagen_jax.errors import UserError
from imagen_jax.storage.refusals import raise_if_denied
from imagen_jax.weights.torch_pickle import STATE_DICT, Storage, Tensor, follow_pickle
from imagen_jax.weights.torch_script import CONSTANTS, MODULE_TREE, Module, tensors_below

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
"""How damage shows: our stack does not check each thing that a broken program puts on it."""


def read_torch_file(path: Path) -> dict[str, np.ndarray]:
    """Reads a ``.pth`` or ``.pt`` file of either layout: a state dict (a dict of plain tensors), or TorchScript.

    Returns:
        Each tensor by its name, in the file's order, as an array of its own.

    Raises:
        UserError: the file asks for anything but plain tensors, is damaged or truncated, or can't be opened.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise_if_denied(error, path)
        raise UserError(f"{path} can't be read ({error.strerror}): name a PyTorch file that is there") from error
    read_layout = read_zip if content.startswith(ZIP_MAGIC) else read_legacy
    try:
        state, storages = read_layout(content, path)
        check_total(state, len(content))
        return {name: view_tensor(tensor, storages[tensor.storage]) for name, tensor in state.items()}
    except DAMAGE as error:
        raise UserError(f"{path} is damaged or truncated, or no PyTorch file ({error}): fetch it again") from error


def check_total(state: dict[str, Tensor], size: int) -> None:
    """Checks that tensors share their storages no more than weights do, which at most are tied in pairs.

    Raises:
        ValueError: together they are several times as large as the file: a few bytes for each could fill any memory.
    """
    total = sum(math.prod(tensor.shape) * tensor.storage.dtype.itemsize for tensor in state.values())
    if total > MAX_SHARED * size:
        raise ValueError(f"its tensors have {total} bytes, and the file {size}")


def read_legacy(content: bytes, path: Path) -> tuple[dict[str, Tensor], dict[Storage, np.ndarray]]:
    """Reads the layout before PyTorch 1.6.

    Raises:
        ValueError: it is not that layout, or a storage is not whole.
        UserError: see ``follow_pickle`` and ``check_state``.
    """
    file = BytesIO(content)
    if follow_pickle(file, path) != MAGIC_NUMBER:
        raise ValueError("its magic number differs")
    follow_pickle(file, path)
    machine = follow_pickle(file, path)
    if not machine["little_endian"]:
        raise ValueError("it is from a big-endian machine")
    state = check_state(follow_pickle(file, path), path)
    by_key = storages_of(state)
    storages = {}
    keys = follow_pickle(file, path)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise ValueError("its storages have no names")
    for key in keys:
        # A storage that no tensor views would have a length, and no type to measure it with.
        storage = by_key[key]
        if file.read(8) != storage.size.to_bytes(8, "little"):
            raise ValueError(f"storage {key} does not begin with its size, {storage.size}")
        storages[storage] = to_array(file.read(storage.size * storage.dtype.itemsize), storage)
    return state, storages


def read_zip(content: bytes, path: Path) -> tuple[dict[str, Tensor], dict[Storage, np.ndarray]]:
    """Reads the layout of PyTorch 1.6 and later.

    Raises:
        ValueError: it is not that layout, or a storage is not whole.
        UserError: see ``follow_pickle`` and ``check_state``.
    """
    with zipfile.ZipFile(BytesIO(content)) as archive:
        infos = {info.filename.partition("/")[2]: info for info in archive.infolist()}

        def read(name: str) -> bytes:
            # PyTorch compresses code alone, and what is not compressed can't grow when it is read.
            if infos[name].compress_type != zipfile.ZIP_STORED:
                raise ValueError("it is compressed")
            return archive.read(infos[name])

        if "byteorder" in infos and read("byteorder") != b"little":
            raise ValueError("it is from a big-endian machine")
        grammar = MODULE_TREE if CONSTANTS in infos else STATE_DICT
        state = check_state(follow_pickle(BytesIO(read("data.pkl")), path, grammar), path)
        named = storages_of(state)
        # Several names in the zip can stand for the same bytes.
        if (total := sum(each.size * each.dtype.itemsize for each in named.values())) > len(content):
            raise ValueError(f"its storages have {total} bytes, and the file {len(content)}")
        storages = {each: to_array(read(f"data/{key}"), each) for key, each in named.items()}
    return state, storages


def check_state(state: Any, path: Path) -> dict[str, Tensor]:
    """Returns the state dict if it is one of tensors alone; of a tree of modules its tensors by their dotted names.

    Raises:
        UserError: it is something else; names the first thing in it that is no tensor.
    """
    if isinstance(state, Module):
        return dict(tensors_below(state))
    if not isinstance(state, dict):
        raise UserError(f"{path} holds no state dict: save model.state_dict() and nothing else")
    for name, tensor in state.items():
        if not isinstance(tensor, Tensor):
            raise UserError(f"{path} holds {name!r}, which is no tensor: save model.state_dict() and nothing else")
    return state


def storages_of(state: dict[str, Tensor]) -> dict[str, Storage]:
    """The storages that tensors view, by key.

    Raises:
        ValueError: two tensors disagree about one.
    """
    storages: dict[str, Storage] = {}
    for tensor in state.values():
        storage = storages.setdefault(tensor.storage.key, tensor.storage)
        if storage != tensor.storage:
            raise ValueError(f"two tensors disagree about storage {storage.key}")
    return storages


def to_array(content: bytes, storage: Storage) -> np.ndarray:
    """The numbers of a storage.

    Raises:
        ValueError: there are fewer or more than it says.
    """
    if len(content) != storage.size * storage.dtype.itemsize:
        raise ValueError(f"storage {storage.key} should have {storage.size} elements and has {len(content)} bytes")
    return np.frombuffer(content, storage.dtype)


def view_tensor(tensor: Tensor, elements: np.ndarray) -> np.ndarray:
    """The tensor as an array of its own.

    Raises:
        ValueError: it reaches beyond its storage, or repeats elements of it.
    """
    if min(tensor.offset, *tensor.shape, *tensor.strides, 0) < 0 or len(tensor.shape) != len(tensor.strides):
        raise ValueError(f"a tensor has shape {tensor.shape}, strides {tensor.strides} and offset {tensor.offset}")
    if 0 in tensor.shape:
        return np.zeros(tensor.shape, elements.dtype)
    last = tensor.offset + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.strides, strict=True))
    # The second: a few bytes, repeated by strides of zero, would fill any memory.
    if last >= len(elements) or math.prod(tensor.shape) > len(elements):
        raise ValueError(f"a tensor of shape {tensor.shape} reaches beyond its storage of {len(elements)} elements")
    strides = [stride * elements.itemsize for stride in tensor.strides]
    return np.lib.stride_tricks.as_strided(elements[tensor.offset :], tensor.shape, strides, writeable=False).copy()
