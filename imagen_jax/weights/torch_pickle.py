"""Unpickles a PyTorch state dict without executing code from it. ``torch_script`` extends this to TorchScript.

A pickle is a program that may call any function by its name. Python's unpickler looks names up with ``find_class``,
which we restrict to the few names that a dict of plain tensors needs (see "Restricting Globals" in the documentation
of ``pickle``). Each of them stands for a function or class of this module. Nothing is imported, and every other name
is refused. ``check_pickle`` refuses pickles that would crash the unpickler, fill the memory or take forever.
"""

import pickle
import pickletools
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from imagen_jax.errors import UserError


class Storage(NamedTuple):
    """An array of numbers in the file: its dtype, its key and its number of elements."""

    dtype: np.dtype
    key: str
    size: int


class Tensor(NamedTuple):
    """A view of a storage. The offset and the strides are in elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


STORAGE_TYPES = {
    "BoolStorage": np.dtype("?"),
    "ByteStorage": np.dtype("u1"),
    "CharStorage": np.dtype("i1"),
    "ShortStorage": np.dtype("<i2"),
    "IntStorage": np.dtype("<i4"),
    "LongStorage": np.dtype("<i8"),
    "HalfStorage": np.dtype("<f2"),
    "FloatStorage": np.dtype("<f4"),
    "DoubleStorage": np.dtype("<f8"),
}

MAX_AXES = 32
"""The max number of axes of a tensor."""

MAX_INSTRUCTIONS = 2_000_000
"""The max per pickle. A tensor takes about 40, and no network has 50,000. One byte of it may take 100 in memory."""

MAX_KEY_LENGTH = 100
"""The max number of characters of a storage's key. Keys are compared, and comparing long ones could take forever."""

MAX_NAME_LENGTH = 500
"""The max number of characters of a tensor's name; in TorchScript it includes the names of all modules around it."""

STORES = {"BINPUT", "LONG_BINPUT"}
RECALLS = {"BINGET", "LONG_BINGET"}
ITEMS = {"SETITEM", "SETITEMS"}
UPDATES = {*ITEMS, "APPEND", "APPENDS", "BUILD"}
INSTRUCTIONS = {*STORES, *RECALLS, *UPDATES, "PROTO", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2",
                "LONG1", "BINFLOAT", "BINUNICODE", "MARK", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3",
                "EMPTY_LIST", "EMPTY_DICT", "GLOBAL", "BINPERSID", "REDUCE", "NEWOBJ", "STOP"}  # fmt: skip
"""The instructions that PyTorch writes."""


def check_pickle(file: BytesIO, path: Path) -> None:
    """Checks that Python's unpickler reads one pickle in time and memory proportional to its length.

    Keys of dicts must be text. The unpickler would crash on the hash of a tuple nested a million deep, and never end
    on a tuple that contains one tuple twice, which contains another twice, and so on.

    Raises:
        UserError: PyTorch doesn't write such an instruction.
        ValueError, LookupError, TypeError: the instructions are invalid or too many, or a key is not text.
    """
    is_text: list[bool] = []
    marks: list[int] = []
    memory: dict[Any, bool] = {}
    for number, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        name, operands = opcode.name, opcode.stack_before
        if number >= MAX_INSTRUCTIONS:
            raise ValueError(f"it has more than {MAX_INSTRUCTIONS} instructions")
        if name not in INSTRUCTIONS:
            raise make_refusal(path, f"the instruction {name}")
        if name == "MARK":
            marks.append(len(is_text))
            continue
        if name in STORES:
            # The unpickler's memory is an array that reaches to the highest index.
            if (argument or 0) > number:
                raise ValueError(f"instruction {number} stores at index {argument}")
            memory[argument] = is_text[-1]
        has_mark = pickletools.markobject in operands
        start = marks.pop() - operands.index(pickletools.markobject) if has_mark else len(is_text) - len(operands)
        popped = is_text[start:]
        del is_text[start:]
        if name in ITEMS and not all(popped[1::2]):
            raise TypeError(f"a key of a dict is not a string of at most {MAX_NAME_LENGTH} characters")
        if name in UPDATES:
            is_text.append(popped[0])
        elif name in RECALLS:
            is_text.append(memory[argument])
        elif opcode.stack_after:
            is_text.append(name == "BINUNICODE" and len(argument or "") <= MAX_NAME_LENGTH)


def make_refusal(path: Path, wanted: str) -> UserError:
    """Returns the error for a pickle that needs more than a dict of plain tensors."""
    return UserError(
        f"{path} was not loaded: its pickle refers to {wanted}, which a plain state dict does not need. No code from "
        "it was run. Use a file that contains only a state dict, from a source that you trust"
    )


class Function(NamedTuple):
    """A function that a pickle may call. A function itself has attributes, which a pickle could set."""

    function: Callable[..., Any]

    def __call__(self, *arguments: Any) -> Any:
        return self.function(*arguments)


class StateDict(dict[str, Any]):
    """A dict that ignores its one attribute, ``_metadata``, which contains the versions of the modules."""

    def __setstate__(self, attributes: Any) -> None:
        if list(attributes) != ["_metadata"]:
            raise ValueError("BUILD sets what no state dict has")


def make_state_dict() -> StateDict:
    """Returns an empty state dict."""
    return StateDict()


def is_integers(values: Any) -> bool:
    """Returns whether these are at most ``MAX_AXES`` integers from 0, each of 64 bits."""
    return (
        isinstance(values, list | tuple)
        and len(values) <= MAX_AXES
        and all(isinstance(value, int) and 0 <= value < 2**63 for value in values)
    )


def make_tensor(
    storage: Any, offset: Any, shape: Any, strides: Any, requires_grad: Any, hooks: Any, metadata: Any = None
) -> Tensor:
    """Returns a tensor, given the arguments of PyTorch's ``_rebuild_tensor_v2``. Ignores the last three.

    Raises:
        ValueError: the first four are not a storage and integers.
    """
    # Checked here: comparing or printing nested tuples of a few bytes can take forever.
    if not isinstance(storage, Storage) or not all(map(is_integers, ([offset], shape, strides))):
        raise ValueError("a tensor is made from something other than a storage and integers")
    return Tensor(storage, offset, tuple(shape), tuple(strides))


class TensorUnpickler(pickle.Unpickler):
    """Python's unpickler, restricted to dicts of plain tensors."""

    def __init__(self, file: BytesIO, path: Path) -> None:
        super().__init__(file)
        self.path = path

    def find_class(self, module: str, name: str) -> Any:
        """Returns what a name stands for: an immutable object.

        Raises:
            UserError: a dict of plain tensors does not need the name.
        """
        if module == "torch" and name in STORAGE_TYPES:
            return name
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return Function(make_tensor)
        if (module, name) == ("collections", "OrderedDict"):
            return Function(make_state_dict)
        raise make_refusal(self.path, f"{module}.{name}")

    def persistent_load(self, pid: Any) -> Storage:
        """Returns the storage that a persistent id identifies.

        Raises:
            ValueError: it identifies something else, or a part of a storage.
        """
        kind, storage_type, key, _, size, *view = pid
        has_type = isinstance(storage_type, str) and storage_type in STORAGE_TYPES
        has_key = isinstance(key, str) and len(key) <= MAX_KEY_LENGTH
        if kind != "storage" or not (has_type and has_key and is_integers([size])) or view not in ([], [None]):
            raise ValueError("a persistent id speaks of no whole storage")
        return Storage(STORAGE_TYPES[storage_type], key, size)


def unpickle(file: BytesIO, path: Path, unpickler: type[TensorUnpickler] = TensorUnpickler) -> Any:
    """Reads one pickle, and leaves the file position at its end.

    Raises:
        UserError: the pickle contains an instruction or a name that it does not need.
        ValueError, LookupError, TypeError, AttributeError: it is damaged or too long.
    """
    start = file.tell()
    check_pickle(file, path)
    file.seek(start)
    try:
        return unpickler(file, path).load()
    except pickle.UnpicklingError as error:
        raise ValueError(str(error)) from error
