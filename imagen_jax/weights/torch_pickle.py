"""Interprets the pickle of a PyTorch state dict without executing it. ``torch_script`` extends it to other files.

A pickle is a program. We never run it with Python's unpickler. Instead, we interpret its instructions one by one on a
stack of our own. We implement only the two dozen instructions that a dict of plain tensors needs. Each name that the
pickle refers to must be in a short table, and is never imported. Everything else is refused.
"""

import pickletools
from collections.abc import Callable, Mapping, Set
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from imagen_jax.errors import UserError

Stack = list[Any]


class Name(NamedTuple):
    """A name in the pickle. The object with that name is never imported."""

    name: str


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
    "torch BoolStorage": np.dtype("?"),
    "torch ByteStorage": np.dtype("u1"),
    "torch CharStorage": np.dtype("i1"),
    "torch ShortStorage": np.dtype("<i2"),
    "torch IntStorage": np.dtype("<i4"),
    "torch LongStorage": np.dtype("<i8"),
    "torch HalfStorage": np.dtype("<f2"),
    "torch FloatStorage": np.dtype("<f4"),
    "torch DoubleStorage": np.dtype("<f8"),
}

REBUILD_TENSOR = Name("torch._utils _rebuild_tensor_v2")
ORDERED_DICT = Name("collections OrderedDict")
KNOWN_NAMES = {*STORAGE_TYPES, REBUILD_TENSOR.name, ORDERED_DICT.name}

MAX_AXES = 32
"""The max number of axes of a tensor."""

MAX_INSTRUCTIONS = 2_000_000
"""The max per pickle. A tensor takes about 40, and no network has 50,000. One byte of it may take 100 in memory."""

MAX_KEY_LENGTH = 100
"""The max number of characters of a storage's key. Keys are compared, and comparing long ones could take forever."""

MARK = object()


class Grammar(NamedTuple):
    """The instructions and names that a pickle may contain. Everything else is refused.

    Attributes:
        literals: instructions that push their argument on the stack.
        actions: the effect of other instructions on the stack.
        knows: returns whether the pickle may refer to a name, such as "collections OrderedDict".
    """

    literals: Set[str]
    actions: Mapping[str, Callable[[Stack], None]]
    knows: Callable[[str], bool]


def pop_to_mark(stack: Stack) -> Stack:
    """Pops the items above the last mark, and the mark, and returns the items.

    Raises:
        IndexError: there is no mark.
    """
    items = []
    # Items are popped as they are compared, so that each is compared only once.
    while (item := stack.pop()) is not MARK:
        items.append(item)
    items.reverse()
    return items


def make_tuple(size: int) -> Callable[[Stack], None]:
    """Returns the action that replaces the last ``size`` items by a tuple of them."""

    def act(stack: Stack) -> None:
        items = [stack.pop() for _ in range(size)]
        stack.append(tuple(reversed(items)))

    return act


def set_item(stack: Stack) -> None:
    """Pops a key and a value and puts them into the dict below them."""
    value, key = stack.pop(), stack.pop()
    put_pairs(stack[-1], [key, value])


def set_items(stack: Stack) -> None:
    """Pops keys and values down to the mark and puts them into the dict below it."""
    items = pop_to_mark(stack)
    put_pairs(stack[-1], items)


def put_pairs(target: dict[str, Any], items: Stack) -> None:
    """Puts alternating keys and values into a dict.

    Raises:
        TypeError: a key is not text.
    """
    # Hashing text is safe. Hashing tuples nested a million deep would crash the process.
    if not all(isinstance(key, str) for key in items[::2]):
        raise TypeError("a key of a dict is no text")
    target.update(zip(items[::2], items[1::2], strict=True))


def append_item(stack: Stack) -> None:
    """Pops one item and appends it to the list below it."""
    item = stack.pop()
    stack[-1].append(item)


def append_items(stack: Stack) -> None:
    """Pops the items down to the mark and appends them to the list below it."""
    items = pop_to_mark(stack)
    stack[-1].extend(items)


def set_attributes(stack: Stack) -> None:
    """Pops and ignores the one attribute of a state dict, ``_metadata``, which contains the versions of its modules.

    Raises:
        ValueError: the object is not a dict, or has other attributes.
    """
    attributes = stack.pop()
    if not isinstance(stack[-1], dict) or list(attributes) != ["_metadata"]:
        raise ValueError("BUILD sets what no state dict has")


def is_integers(values: Any) -> bool:
    """Returns whether these are at most ``MAX_AXES`` integers, each of 64 bits."""
    return (
        isinstance(values, list | tuple)
        and len(values) <= MAX_AXES
        and all(isinstance(value, int) and -(2**63) <= value < 2**63 for value in values)
    )


def find_storage(stack: Stack) -> None:
    """Replaces a persistent id by the storage that it identifies.

    Raises:
        ValueError: it identifies something else, or a part of a storage.
    """
    kind, dtype, key, _, size, *view = stack.pop()
    is_key = isinstance(key, str) and len(key) <= MAX_KEY_LENGTH
    if kind != "storage" or not is_key or not is_integers([size]) or view not in ([], [None]):
        raise ValueError("a persistent id speaks of no whole storage")
    stack.append(Storage(STORAGE_TYPES[dtype.name], key, size))


def call(stack: Stack) -> None:
    """Pops a name and its arguments, and pushes the result of the call that they describe.

    Raises:
        ValueError: the name must not be called, or its arguments are invalid.
    """
    arguments, function = stack.pop(), stack.pop()
    if function == ORDERED_DICT and arguments == ():
        stack.append({})
    elif function == REBUILD_TENSOR:
        # Not unpacked with "*": a pickle that recalls a long list repeatedly would copy it each time.
        storage, offset, shape, strides = arguments[:4]
        # Checked here: comparing or printing nested tuples of a few bytes can take forever.
        if not isinstance(storage, Storage) or not all(map(is_integers, ([offset], shape, strides))):
            raise ValueError("a tensor is made of what is no storage, or no integers")
        stack.append(Tensor(storage, offset, tuple(shape), tuple(strides)))
    else:
        raise ValueError("REDUCE calls what is not to be called")


LITERALS = {"BININT", "BININT1", "BININT2", "LONG1", "BINUNICODE"}
STORES = {"BINPUT", "LONG_BINPUT"}
RECALLS = {"BINGET", "LONG_BINGET"}

ACTIONS: dict[str, Callable[[Stack], None]] = {
    "NONE": lambda stack: stack.append(None),
    "NEWTRUE": lambda stack: stack.append(True),
    "NEWFALSE": lambda stack: stack.append(False),
    "MARK": lambda stack: stack.append(MARK),
    "EMPTY_TUPLE": lambda stack: stack.append(()),
    "EMPTY_DICT": lambda stack: stack.append({}),
    "EMPTY_LIST": lambda stack: stack.append([]),
    "TUPLE": lambda stack: stack.append(tuple(pop_to_mark(stack))),
    "TUPLE1": make_tuple(1),
    "TUPLE2": make_tuple(2),
    "TUPLE3": make_tuple(3),
    "SETITEM": set_item,
    "SETITEMS": set_items,
    "APPEND": append_item,
    "APPENDS": append_items,
    "BUILD": set_attributes,
    "BINPERSID": find_storage,
    "REDUCE": call,
}

STATE_DICT = Grammar(LITERALS, ACTIONS, KNOWN_NAMES.__contains__)
"""The grammar of a dict of plain tensors."""


def follow_pickle(file: BytesIO, path: Path, grammar: Grammar = STATE_DICT) -> Any:
    """Interprets the instructions of one pickle, and leaves the file position at its end.

    Raises:
        UserError: an instruction or a name is not in the grammar.
        ValueError, LookupError, TypeError, AttributeError: the instructions are invalid or too many.
    """
    stack: Stack = []
    memory: dict[Any, Any] = {}
    for number, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        instruction = opcode.name
        if number >= MAX_INSTRUCTIONS:
            raise ValueError(f"it has more than {MAX_INSTRUCTIONS} instructions")
        if instruction == "STOP":
            break
        if instruction in grammar.literals:
            stack.append(argument)
        elif instruction in STORES:
            memory[argument] = stack[-1]
        elif instruction in RECALLS:
            stack.append(memory[argument])
        elif instruction == "GLOBAL" and grammar.knows(str(argument)):
            stack.append(Name(str(argument)))
        elif instruction in grammar.actions:
            grammar.actions[instruction](stack)
        elif instruction != "PROTO":
            asked = str(argument).replace(" ", ".") if instruction == "GLOBAL" else f"the instruction {instruction}"
            raise UserError(
                f"{path} asks for {asked}, which a dict of plain tensors does not need: nothing of it was run; "
                "find one with the state dict alone, from a source that you trust"
            )
    return stack.pop()
