"""Reads a folder of safetensors files as one mapping from names to tensors. Each tensor is read on demand.

    model.safetensors                                                    one file, or
    model.safetensors.index.json, model-00001-of-00002.safetensors, …    an index and its shards

Diffusers names them ``diffusion_pytorch_model…``, and files in half precision have ``.fp16`` in their names. No other
file is opened: a pickle (``pytorch_model.bin``) could run code, and is refused.

Each tensor has its own memory map, so the pages that were read are released with the tensor. One map for the whole
file would keep all of these pages, and XXL would take twice as much memory while it loads.
"""

import pathlib
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from imagen_jax.errors import UserError, lookup
from imagen_jax.storage.json_text import parse_json, read_json
from imagen_jax.storage.local_copies import local_copy
from imagen_jax.storage.names import stays_below
from imagen_jax.storage.paths import Path
from imagen_jax.storage.refusals import raise_if_denied

# In order of preference: full precision before half precision.
SINGLES = (
    "model.safetensors",
    "diffusion_pytorch_model.safetensors",
    "model.fp16.safetensors",
    "diffusion_pytorch_model.fp16.safetensors",
)
INDEXES = (
    "model.safetensors.index.json",
    "diffusion_pytorch_model.safetensors.index.json",
    "model.safetensors.index.fp16.json",
    "diffusion_pytorch_model.safetensors.index.fp16.json",
)
DTYPES = {
    "BOOL": np.dtype("?"),
    "U8": np.dtype("u1"),
    "I8": np.dtype("i1"),
    "I16": np.dtype("<i2"),
    "I32": np.dtype("<i4"),
    "I64": np.dtype("<i8"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
}
MAX_AXES = 32
"""The max number of axes of a tensor."""

PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


class Location(NamedTuple):
    """The location of a tensor: its file, its first byte in it, its dtype and its shape.

    ``path`` is the path of the file, and ``copy`` the file that is read. They are equal for local files.
    """

    path: Path
    copy: pathlib.Path
    offset: int
    dtype: np.dtype
    shape: tuple[int, ...]


class SafetensorsFolder(Mapping[str, np.ndarray]):
    """The tensors of a folder, by name. None is cached, and only the used part of each is read.

    Attributes:
        folder: the folder of the files.

    Raises:
        UserError: there is no safetensors file, a shard is missing, or a file is damaged. The message names the file.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.locations: dict[str, Location] = {}
        for path in find_files(folder):
            self.locations |= read_header(path)
        self.check_index()

    def check_index(self) -> None:
        """Checks that each shard contains the tensors that the index assigns to it.

        Raises:
            UserError: a shard lacks a tensor.
        """
        if find_single(self.folder):
            return
        index, shards = read_index(self.folder)
        for name, shard in shards.items():
            if name not in self.locations or self.locations[name].path != self.folder / shard:
                raise UserError(f"{self.folder / shard} lacks the tensor {name} that {index} names: copy it again")

    def __getitem__(self, name: str) -> np.ndarray:
        _, copy, offset, dtype, shape = self.locations[name]
        if 0 in shape:
            return np.zeros(shape, dtype)
        return np.asarray(np.memmap(copy, dtype, "r", offset, shape))

    def __contains__(self, name: object) -> bool:  # The method of Mapping would read the tensor.
        return name in self.locations

    def __iter__(self) -> Iterator[str]:
        return iter(self.locations)

    def __len__(self) -> int:
        return len(self.locations)


class SafetensorsFile(SafetensorsFolder):
    """The tensors of one safetensors file of any name.

    Raises:
        UserError: the file is missing or damaged. The message names it.
    """

    def __init__(self, path: Path):
        if not path.is_file():
            raise UserError(f"{path} is missing: copy the folder again")
        self.folder = path.parent
        self.locations = read_header(path)


def find_files(folder: Path) -> list[Path]:
    """Returns the safetensors files of a folder: the single one, or the shards of its index.

    Raises:
        UserError: the folder or a shard of the index is missing, or there are no safetensors files.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}: give the one that contains config.json and {SINGLES[0]}")
    if single := find_single(folder):
        return [single]
    index, named = read_index(folder)
    shards = sorted(set(named.values()))
    for shard in shards:
        if not (folder / shard).is_file():
            raise UserError(f"{folder / shard} is missing, although {index} names it: download all shards")
    if shards:
        return [folder / shard for shard in shards]
    pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
    if pickles:
        raise UserError(
            f"{folder} contains {', '.join(pickles)} and no safetensors: a pickle can run code, so it is not opened; "
            f"download {SINGLES[0]}, or convert the pickle yourself if you trust its source"
        )
    raise UserError(
        f"{folder} has neither {SINGLES[0]} nor {INDEXES[0]}: give the folder to which you downloaded the model"
    )


def find_single(folder: Path) -> Path | None:
    """Returns the one file that contains all tensors, or None."""
    return next((folder / name for name in SINGLES if (folder / name).is_file()), None)


def read_index(folder: Path) -> tuple[str, dict[str, str]]:
    """Returns the name of the index, and the shard of each tensor name; an empty dict if there is no index.

    If there are several indexes, the first one with all its shards is used, for example that of half precision if only
    that was downloaded. If none is complete, the first one is used.

    Raises:
        UserError: an index is not valid, or names a file outside the folder.
    """
    indexes = [(name, read_shards(folder / name)) for name in INDEXES if (folder / name).is_file()]
    complete = [index for index in indexes if all((folder / shard).is_file() for shard in set(index[1].values()))]
    return [*complete, *indexes, (INDEXES[0], {})][0]


def read_shards(path: Path) -> dict[str, str]:
    """Returns the shard of each tensor name in an index.

    Raises:
        UserError: the index is not valid, or names a file outside its folder.
    """
    try:
        files = read_json(path)["weight_map"]
        shards = dict(files.items())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is not an index of safetensors ({error!r}): download it again") from None
    for shard in shards.values():
        if not stays_below(shard) or "/" in shard:
            raise UserError(f"{path} names the shard {shard!a}, which is not a file beside it: download it again")
    return shards


def read_metadata(folder: Path) -> dict[str, str]:
    """Returns the metadata of the folder's single safetensors file; empty if there is no such file or no metadata.

    Raises:
        UserError: the file is not a complete safetensors file.
    """
    path = find_single(folder)
    return {} if path is None else parse_header(path)[2].get("__metadata__") or {}


def parse_header(path: Path) -> tuple[pathlib.Path, int, dict]:
    """Returns the file that is read, the size of its header in bytes, and the header.

    Raises:
        UserError: the file is not a complete safetensors file.
    """
    try:
        # A local copy, because tensors are mapped into memory. The library validates the header and the length of the
        # file, so we can parse it without further checks.
        copy = local_copy(path)
        with copy.open("rb") as file:  # before safe_open, which reports an unreadable file as missing
            safe_open(copy, framework="np")
            size = int.from_bytes(file.read(8), "little")
            return copy, size, parse_json(file.read(size))
    except (SafetensorError, OSError, ValueError) as error:
        raise_if_denied(error, path)
        raise UserError(f"{path} is not a complete safetensors file ({error}): download it again") from None


def read_header(path: Path) -> dict[str, Location]:
    """Returns the location of each tensor in a safetensors file.

    Raises:
        UserError: the file is not a complete safetensors file, or has a tensor of a dtype or shape that NumPy lacks.
    """
    copy, size, header = parse_header(path)
    header.pop("__metadata__", None)
    locations = {}
    for name, entry in header.items():
        dtype = lookup(DTYPES, entry["dtype"], f"type of the tensor {name} in {path}")
        shape = tuple(entry["shape"])
        # The library does not check these limits of NumPy.
        if len(shape) > MAX_AXES or max(shape, default=0) >= 2**48:
            raise UserError(f"{path} has the tensor {name!a} of an impossible shape: download it again")
        locations[name] = Location(path, copy, 8 + size + entry["data_offsets"][0], dtype, shape)
    return locations
