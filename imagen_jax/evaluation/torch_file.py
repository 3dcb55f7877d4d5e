"""Reads the tensors of a legacy PyTorch file, and executes nothing.

Such a file is a pickle: a program. Here nobody runs it. Its instructions are walked one by one, the dozen that a dict
of plain tensors needs are followed on a stack of our own, every name that it asks for must be in a short table, and
anything else is refused. The layout, before PyTorch 1.6:

    pickle(magic number), pickle(protocol), pickle(machine), pickle(state dict), pickle(storage names),
    then for each storage: number of elements (8 bytes), elements
"""

import pickletools
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from imagen_jax.errors import UserError

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
ZIP_MAGIC = b"PK\x03\x04"


class Name(NamedTuple):
    """A name in the pickle; what it stands for is never imported."""

    name: str


class Storage(NamedTuple):
    """A run of numbers at the end of the file: what type, under which key, how many."""

    dtype: str
    key: str
    size: int


class Tensor(NamedTuple):
    """A view of a storage."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


STORAGE_TYPES = {
    "torch FloatStorage": "<f4",
    "torch DoubleStorage": "<f8",
    "torch HalfStorage": "<f2",
    "torch LongStorage": "<i8",
    "torch IntStorage": "<i4",
}

REBUILD_TENSOR = "torch._utils _rebuild_tensor_v2"
ORDERED_DICT = "collections OrderedDict"
KNOWN_NAMES = {*STORAGE_TYPES, REBUILD_TENSOR, ORDERED_DICT}

CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
LITERALS = {"BININT", "BININT1", "BININT2", "LONG1", "BINUNICODE", "SHORT_BINUNICODE"}
SILENT = {"PROTO", "FRAME"}
MARK = object()


def read_torch_file(path: Path) -> dict[str, np.ndarray]:
    """Reads a legacy ``.pth`` file that holds a dict of tensors.

    Returns:
        Each tensor by its name.

    Raises:
        UserError: the file asks for anything but plain tensors, is truncated, or is of the newer zip layout.
    """
    content = path.read_bytes()
    if content.startswith(ZIP_MAGIC):
        raise UserError(
            f"{path} has the zip layout of PyTorch 1.6 and later, which is not read: convert it to safetensors"
        )
    file = BytesIO(content)
    try:
        magic, _, _, state, keys = (follow_pickle(file, path) for _ in range(5))
        if magic != MAGIC_NUMBER:
            raise UserError(f"{path} is no PyTorch file: its magic number differs")
        arrays = read_storages(file, state, keys)
        return {name: view_tensor(tensor, arrays) for name, tensor in state.items()}
    except (ValueError, IndexError, KeyError, TypeError, AttributeError) as error:
        # Whatever else is wrong with a file of bytes shows as one of these.
        raise UserError(f"{path} is damaged or truncated ({error}): fetch it again") from error


def follow_pickle(file: BytesIO, path: Path) -> Any:
    """Follows one pickle's instructions, and leaves the file at its end.

    Raises:
        UserError: an instruction or a name that plain tensors do not need.
    """
    stack: list[Any] = []
    memory: dict[Any, Any] = {}
    for opcode, argument, _ in pickletools.genops(file):
        name = opcode.name
        if name == "STOP":
            return stack.pop()
        if name in LITERALS:
            stack.append(argument)
        elif name in CONSTANTS:
            stack.append(CONSTANTS[name])
        elif name in ("BINPUT", "LONG_BINPUT"):
            memory[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memory[argument])
        elif name == "GLOBAL":
            if argument not in KNOWN_NAMES:
                raise UserError(f"{path} asks for {argument!r}, which plain tensors do not need: it is refused")
            stack.append(Name(argument))
        elif name in ACTIONS:
            ACTIONS[name](stack)
        elif name not in SILENT:
            raise UserError(f"{path} has the instruction {name}, which plain tensors do not need: it is refused")
    raise ValueError("a pickle without an end")


def pop_to_mark(stack: list[Any]) -> list[Any]:
    """Takes everything above the last mark off the stack, and the mark."""
    place = max(index for index, item in enumerate(stack) if item is MARK)
    items = stack[place + 1 :]
    del stack[place:]
    return items


def pop_tuple(size: int) -> Callable[[list[Any]], None]:
    """Makes the action that turns the last items into a tuple."""

    def act(stack: list[Any]) -> None:
        items = tuple(stack[len(stack) - size :])
        del stack[len(stack) - size :]
        stack.append(items)

    return act


def set_items(stack: list[Any]) -> None:
    """Puts pairs into the dict below them."""
    items = pop_to_mark(stack)
    stack[-1].update(zip(items[::2], items[1::2], strict=True))


def append_items(stack: list[Any]) -> None:
    """Appends items to the list below them."""
    items = pop_to_mark(stack)
    stack[-1].extend(items)


def set_item(stack: list[Any]) -> None:
    """Puts one pair into the dict below it."""
    value, key = stack.pop(), stack.pop()
    stack[-1][key] = value


def find_storage(stack: list[Any]) -> None:
    """Turns a persistent id into the storage it speaks of."""
    kind, dtype, key, _, size, view = stack.pop()
    if kind != "storage" or view is not None:
        raise ValueError(f"a storage of kind {kind!r}")
    stack.append(Storage(STORAGE_TYPES[dtype.name], key, size))


def call(stack: list[Any]) -> None:
    """Does what calling one of the known names would."""
    arguments, function = stack.pop(), stack.pop()
    if function == Name(ORDERED_DICT) and arguments == ():
        stack.append({})
    elif function == Name(REBUILD_TENSOR):
        storage, offset, shape, strides = arguments[:4]
        stack.append(Tensor(storage, offset, shape, strides))
    else:
        raise ValueError(f"a call of {function}")


ACTIONS: dict[str, Callable[[list[Any]], None]] = {
    "MARK": lambda stack: stack.append(MARK),
    "EMPTY_TUPLE": lambda stack: stack.append(()),
    "EMPTY_DICT": lambda stack: stack.append({}),
    "EMPTY_LIST": lambda stack: stack.append([]),
    "TUPLE": lambda stack: stack.append(tuple(pop_to_mark(stack))),
    "TUPLE1": pop_tuple(1),
    "TUPLE2": pop_tuple(2),
    "TUPLE3": pop_tuple(3),
    "SETITEM": set_item,
    "SETITEMS": set_items,
    "APPENDS": append_items,
    "BINPERSID": find_storage,
    "REDUCE": call,
    # The metadata of a state dict: versions of its modules.
    "BUILD": lambda stack: stack.pop(),
}


def read_storages(file: BytesIO, state: dict[str, Tensor], keys: list[str]) -> dict[str, np.ndarray]:
    """Reads the numbers of each storage, in the order the file has them.

    Raises:
        ValueError: a storage is shorter than it says, or was never spoken of.
    """
    storages = {tensor.storage.key: tensor.storage for tensor in state.values()}
    arrays = {}
    for key in keys:
        storage = storages[key]
        size = int.from_bytes(file.read(8), "little")
        content = file.read(size * np.dtype(storage.dtype).itemsize) if size == storage.size else b""
        if len(content) != storage.size * np.dtype(storage.dtype).itemsize:
            raise ValueError(f"storage {key} is not whole")
        arrays[key] = np.frombuffer(content, storage.dtype)
    return arrays


def view_tensor(tensor: Tensor, arrays: dict[str, np.ndarray]) -> np.ndarray:
    """The tensor as an array of its own.

    Raises:
        ValueError: it reaches beyond its storage.
    """
    array = arrays[tensor.storage.key]
    last = tensor.offset + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.strides, strict=True))
    if min(tensor.offset, *tensor.shape, *tensor.strides, 0) < 0 or (0 not in tensor.shape and last >= len(array)):
        raise ValueError(f"a tensor of shape {tensor.shape} reaches beyond its storage")
    strides = [stride * array.itemsize for stride in tensor.strides]
    return np.lib.stride_tricks.as_strided(array[tensor.offset :], tensor.shape, strides, writeable=False).copy()
