"""Reads a T5X checkpoint as one mapping from names to tensors. Each tensor is read on demand.

    checkpoint                                   msgpack: a tree of small tensors, and of pointers to the large ones
    target.encoder.layers_0.mlp.wo.kernel/       a large tensor, under its path in the tree: a zarr array of
        .zarray, 0.0, 0.1, …                     its shape and type, and its chunks

The weights are the tree's ``target``. Its ``state`` belongs to the optimizer and is ignored. A pointer contains a spec
for tensorstore, which could name any location. We ignore the spec and open the folder with the tensor's name. Msgpack
and zarr contain only numbers and text, so no code is run.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import tensorstore
from flax.serialization import msgpack_restore

from imagen_jax.errors import UserError
from imagen_jax.storage.paths import Path, array_store, files_in
from imagen_jax.storage.refusals import raise_if_denied

CHECKPOINT = "checkpoint"
TENSORFLOW = b"model_checkpoint_path"
MAX_BYTES = 2**33
"""The max size of a tensor in bytes. The largest ones of XXL, in float32, have half a GB."""

FLOATS = {"float16", "bfloat16", "float32", "float64"}

DAMAGE = (ArithmeticError, AttributeError, LookupError, RuntimeError, SyntaxError, TypeError, ValueError)
"""The exceptions that damaged msgpack can cause. Its tree can have any structure, which we check only as we read it."""


class T5xFolder(Mapping[str, np.ndarray]):
    """The weights of a checkpoint, by dotted name. One is read at a time, and the large ones are not cached.

    Unused tensors may be missing: it is enough to download the folders of the encoder.

    Attributes:
        folder: the folder of the files.

    Raises:
        UserError: the file ``checkpoint`` is missing, damaged or of another program. When a tensor is read: the tensor
            is missing, incomplete or not of a float type. The message names the file and the tensor.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.leaves = read_leaves(folder / CHECKPOINT)

    def __getitem__(self, name: str) -> np.ndarray:
        leaf = self.leaves[name]
        # ``fill_missing_data_reads=False`` in open_array: without it, a missing chunk would be read as zeros.
        array = leaf if isinstance(leaf, np.ndarray) else self.wait(name, self.open_array(name).read())
        if not isinstance(array, np.ndarray):
            raise UserError(f"{self.folder} has the tensor {name!a}, which has no numbers: download it again")
        if array.dtype.name not in FLOATS:
            raise UserError(
                f"the tensor {name} of {self.folder} is of type {array.dtype.name}: use a T5X checkpoint of version 3, "
                "whose weights are floats"
            )
        return array

    def __contains__(self, name: object) -> bool:  # The method of Mapping would read the tensor.
        return name in self.leaves

    def __iter__(self) -> Iterator[str]:
        return iter(self.leaves)

    def __len__(self) -> int:
        return len(self.leaves)

    def shape_of(self, name: str) -> tuple[int, ...]:
        """Returns the shape of a tensor without reading its numbers."""
        leaf = self.leaves[name]
        return leaf.shape if isinstance(leaf, np.ndarray) else tuple(self.open_array(name).shape)

    def files_of(self, name: str) -> list[Path]:
        """Returns the files that contain only this tensor; none for a small one."""
        return files_in(self.folder / name)

    def open_array(self, name: str) -> Any:
        """Opens the zarr array of a tensor without reading a chunk.

        Raises:
            UserError: the array is missing, damaged or too large.
        """
        path = self.folder / name
        if not path.is_dir():
            raise UserError(f"{path} is missing, although {CHECKPOINT} lists it as a tensor: download it too")
        spec = {"driver": "zarr", "kvstore": array_store(path), "fill_missing_data_reads": False}
        array = self.wait(name, tensorstore.open(spec, open=True, read=True))
        # A sparse or highly compressed array can take few bytes on the disk and any number in memory.
        if array.size * array.dtype.numpy_dtype.itemsize > MAX_BYTES:
            raise UserError(
                f"the tensor {name} of {self.folder} has the shape {tuple(array.shape)}, larger than any of T5: "
                "download it again"
            )
        return array

    def wait(self, name: str, future: Any) -> Any:
        """Waits for a future of tensorstore and returns its result.

        Raises:
            UserError: the operation failed.
        """
        try:
            return future.result()
        except ValueError as error:
            raise_if_denied(error, self.folder / name)
            reason = str(error).partition(" [tensorstore_spec")[0]
            raise UserError(
                f"the tensor {name} is damaged or incomplete ({reason}): download {self.folder / name} again"
            ) from None


def read_leaves(path: Path) -> dict[str, Any]:
    """Returns the leaves of the tree of weights by dotted names: arrays, and pointers to arrays in their own folders.

    Raises:
        UserError: the file is missing, damaged or of another program.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise_if_denied(error, path)
        raise UserError(
            f"{path} can't be read ({error.strerror or error}): give the folder of a T5X checkpoint"
        ) from None
    if content.startswith(TENSORFLOW):
        raise UserError(f"{path} belongs to a TensorFlow checkpoint: download the one converted for T5X")
    try:
        return dict(flatten("target", msgpack_restore(content)["optimizer"]["target"]))
    except DAMAGE as error:
        raise UserError(f"{path} is damaged or not a T5X checkpoint ({error!r}): download it again") from None


def flatten(name: str, node: Any) -> Iterator[tuple[str, Any]]:
    """Yields the leaves below a node of the tree. A dict with a ``kvstore`` points to a tensor, so it is a leaf."""
    if isinstance(node, dict) and "kvstore" not in node:
        for key, child in node.items():
            yield from flatten(f"{name}.{key}", child)
    else:
        yield name, node
