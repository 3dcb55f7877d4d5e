"""Follows the pickle of a PyTorch state dict, and executes nothing; ``torch_script`` adds what other files need.

A pickle is a program. Here nobody runs it. Its instructions are walked one by one, the two dozen that a dict of plain
tensors needs are followed on a stack of our own, every name that it asks for must be in a short table and is never
imported, and anything else is refused.
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
    """A name in the pickle; what it stands for is never imported."""

    name: str


class Storage(NamedTuple):
    """A run of numbers at the end of the file: what type, under which key, how many."""

    dtype: np.dtype
    key: str
    size: int


class Tensor(NamedTuple):
    """A view of a storage, in elements."""

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
"""Of a tensor."""

MAX_INSTRUCTIONS = 2_000_000
"""Of a pickle: a tensor takes about 40, and no network has 50,000. Each may take a hundred times its byte of memory."""

MAX_KEY_LENGTH = 100
"""Characters of a storage's key. Keys are compared, and so a few long ones could be compared forever."""

MARK = object()


class Grammar(NamedTuple):
    """What a pickle may say; everything else is refused.

    Attributes:
        literals: instructions that put their argument on the stack.
        actions: what other instructions do to the stack.
        knows: whether a name, as in "collections OrderedDict", may be asked for.
    """

    literals: Set[str]
    actions: Mapping[str, Callable[[Stack], None]]
    knows: Callable[[str], bool]


def pop_to_mark(stack: Stack) -> Stack:
    """Takes everything above the last mark off the stack, and the mark.

    Raises:
        IndexError: there is no mark.
    """
    items = []
    # From above: what is looked at is taken off, and so is looked at once.
    while (item := stack.pop()) is not MARK:
        items.append(item)
    items.reverse()
    return items


def make_tuple(size: int) -> Callable[[Stack], None]:
    """Makes the action that turns the last items into a tuple."""

    def act(stack: Stack) -> None:
        items = [stack.pop() for _ in range(size)]
        stack.append(tuple(reversed(items)))

    return act


def set_item(stack: Stack) -> None:
    """Puts one pair into the dict below it."""
    value, key = stack.pop(), stack.pop()
    put_pairs(stack[-1], [key, value])


def set_items(stack: Stack) -> None:
    """Puts pairs into the dict below them."""
    items = pop_to_mark(stack)
    put_pairs(stack[-1], items)


def put_pairs(target: dict[str, Any], items: Stack) -> None:
    """Puts keys and values, in turns, into a dict.

    Raises:
        TypeError: a key is no text.
    """
    # Hashing text is safe; hashing tuples nested a million deep would end the process.
    if not all(isinstance(key, str) for key in items[::2]):
        raise TypeError("a key of a dict is no text")
    target.update(zip(items[::2], items[1::2], strict=True))


def append_item(stack: Stack) -> None:
    """Appends one item to the list below it."""
    item = stack.pop()
    stack[-1].append(item)


def append_items(stack: Stack) -> None:
    """Appends items to the list below them."""
    items = pop_to_mark(stack)
    stack[-1].extend(items)


def set_attributes(stack: Stack) -> None:
    """Leaves out the one attribute that a state dict has: the versions of its modules.

    Raises:
        ValueError: something has other attributes.
    """
    attributes = stack.pop()
    if not isinstance(stack[-1], dict) or list(attributes) != ["_metadata"]:
        raise ValueError("BUILD sets what no state dict has")


def is_integers(values: Any) -> bool:
    """Whether these are integers, no more of them than a tensor has axes, and each of 64 bits."""
    return (
        isinstance(values, list | tuple)
        and len(values) <= MAX_AXES
        and all(isinstance(value, int) and -(2**63) <= value < 2**63 for value in values)
    )


def find_storage(stack: Stack) -> None:
    """Turns a persistent id into the storage it speaks of.

    Raises:
        ValueError: it speaks of something else, or of a part of a storage.
    """
    kind, dtype, key, _, size, *view = stack.pop()
    is_key = isinstance(key, str) and len(key) <= MAX_KEY_LENGTH
    if kind != "storage" or not is_key or not is_integers([size]) or view not in ([], [None]):
        raise ValueError("a persistent id speaks of no whole storage")
    stack.append(Storage(STORAGE_TYPES[dtype.name], key, size))


def call(stack: Stack) -> None:
    """Does what calling one of the known names would.

    Raises:
        ValueError: it is not to be called, or not like that.
    """
    arguments, function = stack.pop(), stack.pop()
    if function == ORDERED_DICT and arguments == ():
        stack.append({})
    elif function == REBUILD_TENSOR:
        # Not unpacked with "*": a long list, asked for again and again, would be copied each time.
        storage, offset, shape, strides = arguments[:4]
        # Checked here: tuples of tuples of tuples can be few bytes and yet take forever to compare or to print.
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
"""What a dict of plain tensors needs."""


def follow_pickle(file: BytesIO, path: Path, grammar: Grammar = STATE_DICT) -> Any:
    """Follows one pickle's instructions, and leaves the file at its end.

    Raises:
        UserError: an instruction or a name that the grammar does not have.
        ValueError, LookupError, TypeError, AttributeError: the instructions make no sense, or are too many.
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
