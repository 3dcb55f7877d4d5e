"""Finds a downloaded T5 v1.1: its tokenizer, its weights and their sizes, in either of two layouts.

Hugging Face's (``google/t5-v1_1-xxl``)
    config.json                                     the sizes
    spiece.model                                    the tokenizer; diffusers keeps it in ../tokenizer/
    model.safetensors, or its index and shards      the weights, of the encoder alone or of the whole T5

T5X's (``t5_1_1_xxl/checkpoint_1000000``)
    checkpoint, target.encoder.…/                   the weights; the sizes are their shapes
    spiece.model or sentencepiece.model             the tokenizer, if copied there: T5X keeps it elsewhere
"""

import hashlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from imagen_jax.encoders.t5 import T5Config
from imagen_jax.encoders.t5_weights import T5X
from imagen_jax.errors import UserError
from imagen_jax.storage.paths import Path, read_ranges, size_of, to_path
from imagen_jax.weights.safetensors_folder import SafetensorsFolder, find_files
from imagen_jax.weights.t5x_folder import CHECKPOINT, T5xFolder

TOKENIZERS = ("spiece.model", "sentencepiece.model")

PROBES = 64
PROBE_BYTES = 1 << 16
READERS = 16


class T5Files(NamedTuple):
    """The files of a T5, found but not read yet.

    Attributes:
        config: the sizes.
        tokenizer: the sentencepiece model.
        read_weights: returns the tensors, under the names of the layout.
        fingerprint: eight hexadecimal digits that change with the config, the tokenizer or the weights.
    """

    config: T5Config
    tokenizer: Path
    read_weights: Callable[[], Mapping[str, np.ndarray]]
    fingerprint: str


def find_t5(folder: Path, tokenizer: str = "") -> T5Files:
    """Finds a T5 in a folder of either layout.

    Args:
        folder: a folder in one of the layouts in the module's docstring.
        tokenizer: the sentencepiece model, if it is not in the folder.

    Raises:
        UserError: a file is missing, or it is of another model.
    """
    find_layout = find_t5x if (folder / CHECKPOINT).is_file() else find_hugging_face
    return find_layout(folder, find_tokenizer(folder, tokenizer))


def find_tokenizer(folder: Path, tokenizer: str) -> Path:
    """Returns the sentencepiece model: ``tokenizer``, or the one in ``folder``, or in ``../tokenizer/``."""
    if tokenizer:
        return to_path(tokenizer)
    candidates = [*(folder / name for name in TOKENIZERS), folder.parent / "tokenizer" / TOKENIZERS[0]]
    return next((path for path in candidates if path.is_file()), candidates[0])


def find_hugging_face(folder: Path, tokenizer: Path) -> T5Files:
    """Finds a T5 in Hugging Face's layout.

    Raises:
        UserError: a file is missing, or config.json is of another model.
    """
    config = read_config(folder)
    digest = fingerprint([folder / "config.json", tokenizer, *find_files(folder)], PROBES)
    return T5Files(config, tokenizer, lambda: SafetensorsFolder(folder), digest)


def find_t5x(folder: Path, tokenizer: Path) -> T5Files:
    """Finds a T5 in T5X's layout.

    Raises:
        UserError: a file is missing or damaged, or it is of another model.
    """
    tensors = T5xFolder(folder)
    config = derive_config(tensors)
    chunks = [path for name in tensors if not name.startswith(T5X.unused) for path in tensors.files_of(name)]
    # One probe per file: XXL has hundreds of compressed chunks, and fine-tuning changes their sizes and first bytes.
    digest = fingerprint([folder / CHECKPOINT, tokenizer, *chunks], probes=1)
    return T5Files(config, tokenizer, lambda: tensors, digest)


def read_config(folder: Path) -> T5Config:
    """Reads the sizes.

    Raises:
        UserError: there is no config.json, or it is of another model.
    """
    return T5Config.read(folder / "config.json")


def derive_config(tensors: T5xFolder) -> T5Config:
    """Derives the sizes from the shapes of a few tensors. The other settings are the same in all of T5 v1.1.

    Raises:
        UserError: one of the tensors is missing, not a matrix, or does not fit the others.
    """

    def shape_of(path: str) -> tuple[int, int]:
        name = T5X.name_of(path)
        if name not in tensors:
            raise UserError(f"{tensors.folder} has no tensor {name}: {T5X.advice}")
        shape = tensors.shape_of(name)
        if len(shape) != 2:
            raise UserError(
                f"the tensor {name} of {tensors.folder} has shape {shape} and is not a matrix: {T5X.advice}"
            )
        return shape[0], shape[1]

    vocabulary, width = shape_of("embedding/embedding")
    heads, buckets = shape_of("position_bias/embedding")
    _, heads_width = shape_of("layer_0_attention/query/kernel")
    _, hidden = shape_of("layer_0_feed_forward/gate/kernel")
    if heads_width % heads:
        raise UserError(
            f"{tensors.folder} has queries of width {heads_width}, which is not a multiple of its {heads} heads: "
            f"{T5X.advice}"
        )
    layers = {name.split(".")[2] for name in tensors if name.startswith("target.encoder.layers_")}
    return T5Config(vocabulary, width, heads_width // heads, hidden, len(layers), heads, buckets)


def fingerprint(paths: list[Path], probes: int) -> str:
    """Returns eight hexadecimal digits that change with the files.

    It reads the size of each file and ``probes`` blocks of 64 KiB, not the whole file: for example 4 MiB instead of 9.5
    GB. Fine-tuned weights differ in every block.

    Raises:
        UserError: a file is missing.
    """
    digest = hashlib.sha256()
    # In parallel, because requests to a bucket have a high latency.
    with ThreadPoolExecutor(READERS) as readers:
        for path, (size, blocks) in zip(paths, readers.map(lambda path: probe(path, probes), paths), strict=True):
            digest.update(f"{path.name} {size}".encode())
            for block in blocks:
                digest.update(block)
    return digest.hexdigest()[:8]


def probe(path: Path, probes: int) -> tuple[int, list[bytes]]:
    """Returns the size of a file and evenly spaced blocks from its first byte to its last. Small files are read whole.

    Raises:
        UserError: the file is missing.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing: give the folder to which you downloaded T5, with its tokenizer")
    size = size_of(path)
    starts = np.linspace(0, max(size - PROBE_BYTES, 0), probes).astype(np.int64).tolist()
    return size, read_ranges(path, starts, PROBE_BYTES) if size else []
