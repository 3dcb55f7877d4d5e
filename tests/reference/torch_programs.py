"""PyTorch files of the zip layout, written by hand: the instructions that PyTorch writes, and no PyTorch."""

import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

EMPTY_TUPLE, NEW, BUILD, STOP = b")", b"\x81", b"b", b"."
STORAGES = {"<f2": "HalfStorage", "<f4": "FloatStorage", "<i8": "LongStorage"}


def named(name: str) -> bytes:
    """Asks for a name, as in "collections OrderedDict"."""
    return b"c" + name.replace(" ", "\n").encode() + b"\n"


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def numbers(values: tuple[int, ...]) -> bytes:
    return b"(" + b"".join(map(number, values)) + b"t"


def dictionary(items: Mapping[str, bytes]) -> bytes:
    """Makes a dict, from the programs that make what it holds."""
    return b"}(" + b"".join(text(key) + program for key, program in items.items()) + b"u"


def module(attributes: Mapping[str, bytes], name: str = "__torch__ Net") -> bytes:
    """Makes a module of TorchScript, from the programs that make what it holds."""
    return named(name) + EMPTY_TUPLE + NEW + dictionary(attributes) + BUILD


def tensor(key: str, array: np.ndarray) -> bytes:
    """Makes a tensor of all that a storage has."""
    storage = named(f"torch {STORAGES[array.dtype.str]}")
    place = b"(" + text("storage") + storage + text(key) + text("cuda:0") + number(array.size) + b"tQ"
    strides = tuple(stride // array.itemsize for stride in array.copy(order="C").strides)
    view = place + number(0) + numbers(array.shape) + numbers(strides)
    return named("torch._utils _rebuild_tensor_v2") + b"(" + view + b"\x89" + named("collections OrderedDict") + b")RtR"


def nest(tensors: Mapping[str, np.ndarray], keys: Mapping[str, str]) -> bytes:
    """Makes the tree of modules whose tensors have these dotted names.

    Args:
        tensors: by name.
        keys: of the storage of each.
    """
    parts: dict[str, dict[str, np.ndarray]] = {}
    for name, array in tensors.items():
        first, _, rest = name.partition(".")
        parts.setdefault(first, {})[rest] = array
    attributes = {"training": b"\x89"}
    for first, below in parts.items():
        if list(below) == [""]:
            attributes[first] = tensor(keys[first], below[""])
        else:
            inner = {rest: keys[f"{first}.{rest}"] for rest in below}
            attributes[first] = nest(below, inner)
    return module(attributes)


def write_archive(path: Path, program: bytes, storages: Mapping[str, np.ndarray], script: bool = False) -> Path:
    """Writes a program and the storages it refers to; for TorchScript, with code that must not run."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("net/data.pkl", b"\x80\x02" + program + STOP)
        for key, elements in storages.items():
            archive.writestr(f"net/data/{key}", elements.tobytes())
        if script:
            archive.writestr("net/code/__torch__.py", "raise SystemExit\n" * 99, zipfile.ZIP_DEFLATED)
            archive.writestr("net/constants.pkl", b"\x80\x02).")
    return path


def write_tensors(path: Path, tensors: Mapping[str, np.ndarray], script: bool = False) -> Path:
    """Writes tensors as a state dict, or as a tree of modules of TorchScript."""
    keys = {name: str(index) for index, name in enumerate(tensors)}
    storages = {keys[name]: array for name, array in tensors.items()}
    flat = dictionary({name: tensor(keys[name], array) for name, array in tensors.items()})
    return write_archive(path, nest(tensors, keys) if script else flat, storages, script)
