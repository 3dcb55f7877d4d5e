"""A folder of safetensors files as one mapping from names to tensors, each read when it is asked for.

    model.safetensors                                                    one file, or
    model.safetensors.index.json, model-00001-of-00002.safetensors, …    an index and its shards

Diffusers calls them ``diffusion_pytorch_model…``, and files in half precision have ``.fp16`` in their names. Nothing
else is opened: a pickle (``pytorch_model.bin``) could run code, and is refused.

A tensor is mapped into memory by itself, so what was read of it leaves memory with it. A file mapped as a whole would
keep all pages that were ever read, and XXL would weigh twice as much while it loads.
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

# The first that is there is read: full precision before half.
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
"""Of a tensor."""

PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


class Location(NamedTuple):
    """Where a tensor lies: from which byte of which file, and what its bytes mean.

    ``path`` is the file's name, and ``copy`` the file that is read: on this machine it is the same.
    """

    path: Path
    copy: pathlib.Path
    offset: int
    dtype: np.dtype
    shape: tuple[int, ...]


class SafetensorsFolder(Mapping[str, np.ndarray]):
    """The tensors of a folder, by name; none is kept, and of each only the part that is used is read.

    Attributes:
        folder: where the files are.

    Raises:
        UserError: there is no such file, a shard is missing, or one of them is not whole; names the file.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.locations: dict[str, Location] = {}
        for path in find_files(folder):
            self.locations |= read_header(path)
        self.check_index()

    def check_index(self) -> None:
        """Checks that each shard holds what the index says.

        Raises:
            UserError: one does not.
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

    def __contains__(self, name: object) -> bool:  # Mapping's own would read the tensor.
        return name in self.locations

    def __iter__(self) -> Iterator[str]:
        return iter(self.locations)

    def __len__(self) -> int:
        return len(self.locations)


def find_files(folder: Path) -> list[Path]:
    """The safetensors files of a folder: the single one, or the shards of its index.

    Raises:
        UserError: there are none, or one of the index is missing.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}: give the one that holds config.json and {SINGLES[0]}")
    if single := find_single(folder):
        return [single]
    index, named = read_index(folder)
    shards = sorted(set(named.values()))
    for shard in shards:
        if not (folder / shard).is_file():
            raise UserError(f"{folder / shard} is missing, and {index} names it: download all shards")
    if shards:
        return [folder / shard for shard in shards]
    pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
    if pickles:
        raise UserError(
            f"{folder} holds {', '.join(pickles)} and no safetensors: a pickle can run code and is not opened; "
            f"download {SINGLES[0]}, or convert it where you trust its source"
        )
    raise UserError(
        f"{folder} holds neither {SINGLES[0]} nor {INDEXES[0]}: give the folder the model was downloaded to"
    )


def find_single(folder: Path) -> Path | None:
    """The one file that holds all tensors; None where there is none."""
    return next((folder / name for name in SINGLES if (folder / name).is_file()), None)


def read_index(folder: Path) -> tuple[str, dict[str, str]]:
    """The name of the index, and tensor names with their shards; none where there is no index.

    Of several the first is taken whose shards are all there, for example of half precision where only those were
    downloaded; where none is complete, the first.

    Raises:
        UserError: the index is not what one is, or points out of the folder.
    """
    indexes = [(name, read_shards(folder / name)) for name in INDEXES if (folder / name).is_file()]
    complete = [index for index in indexes if all((folder / shard).is_file() for shard in set(index[1].values()))]
    return [*complete, *indexes, (INDEXES[0], {})][0]


def read_shards(path: Path) -> dict[str, str]:
    """Tensor names and the shards that an index says they are in.

    Raises:
        UserError: the index is not what one is, or points out of the folder.
    """
    try:
        files = read_json(path)["weight_map"]
        shards = dict(files.items())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is no index of safetensors ({error!r}): download it again") from None
    for shard in shards.values():
        if not stays_below(shard) or "/" in shard:
            raise UserError(f"{path} names the shard {shard!a}, which is not a file beside it: download it again")
    return shards


def read_metadata(folder: Path) -> dict[str, str]:
    """What the folder's single file of tensors says of itself; nothing where there is none, or it says nothing.

    Raises:
        UserError: it is not a whole safetensors file.
    """
    path = find_single(folder)
    return {} if path is None else parse_header(path)[2].get("__metadata__") or {}


def parse_header(path: Path) -> tuple[pathlib.Path, int, dict]:
    """The file that is read, the bytes of its header, and the header.

    Raises:
        UserError: it is not a whole safetensors file.
    """
    try:
        # A file of this machine, for it is mapped. The library checks the header, and that the file is as long as it
        # says: what it passes is read with ease.
        copy = local_copy(path)
        with copy.open("rb") as file:  # first, for the library says of what it may not read that it is not there
            safe_open(copy, framework="np")
            size = int.from_bytes(file.read(8), "little")
            return copy, size, parse_json(file.read(size))
    except (SafetensorError, OSError, ValueError) as error:
        raise_if_denied(error, path)
        raise UserError(f"{path} is not a whole safetensors file ({error}): download it again") from None


def read_header(path: Path) -> dict[str, Location]:
    """Where each tensor of a safetensors file lies.

    Raises:
        UserError: it is not a whole safetensors file, or has a tensor of a type that NumPy does not know.
    """
    copy, size, header = parse_header(path)
    header.pop("__metadata__", None)
    locations = {}
    for name, entry in header.items():
        dtype = lookup(DTYPES, entry["dtype"], f"type of the tensor {name} in {path}")
        shape = tuple(entry["shape"])
        # The library leaves these to whoever makes an array.
        if len(shape) > MAX_AXES or max(shape, default=0) >= 2**48:
            raise UserError(f"{path} has the tensor {name!a} of an impossible shape: download it again")
        locations[name] = Location(path, copy, 8 + size + entry["data_offsets"][0], dtype, shape)
    return locations
