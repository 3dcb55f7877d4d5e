"""A pretrained T5 v1.1 encoder from a folder as Hugging Face lays it out: Imagen's is ``google/t5-v1_1-xxl``.

config.json                                         the sizes
spiece.model                                        the tokenizer
model.safetensors, or its index and shards          the weights, of the encoder alone or of the whole T5
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from imagen_jax.array_types import DTYPES, TextEmbeddings, TokenIds, TokenMask
from imagen_jax.errors import UserError, choose
from imagen_jax.text.batched_encoder import BatchedEncoder, EncoderParts
from imagen_jax.text.t5 import T5Config, T5Encoder
from imagen_jax.text.t5_weights import import_t5_weights
from imagen_jax.text.tokenizer import load_sentencepiece
from imagen_jax.weights.safetensors_folder import SafetensorsFolder, find_files

DEFAULT_MAX_TOKENS = 128
PROBES = 64
PROBE_BYTES = 1 << 16


def load_t5(folder: str | Path = "", max_tokens: int = DEFAULT_MAX_TOKENS, dtype: str = "bfloat16") -> BatchedEncoder:
    """Returns the T5 encoder of a folder; its weights are read at the first ``encode``.

    Args:
        folder: see the module's docstring.
        max_tokens: the longest caption, </s> included; at least 2. The paper does not say; others took 128.
        dtype: of the weights and the compute, "bfloat16" or "float32"; what is returned is float32.

    Raises:
        UserError: no folder is given, a file is missing, or config.json is of another model; at the first ``encode``:
            weights or tokenizer are damaged or do not fit.
    """
    if not str(folder):
        raise UserError(
            "the T5 encoder has no weights: give the folder they were downloaded to, as in "
            "--config.text.options.folder=FOLDER (Imagen's are google/t5-v1_1-xxl)"
        )
    if max_tokens < 2:
        raise UserError(f"T5 cannot read captions of {max_tokens} tokens: choose max_tokens of at least 2")
    compute = choose(DTYPES, dtype, "T5 dtype")
    folder = Path(folder)
    config = read_config(folder)
    name = f"t5-{config.d_model}-{fingerprint(folder)}-{dtype}"
    if max_tokens != DEFAULT_MAX_TOKENS:
        name += f"-{max_tokens}-tokens"
    return BatchedEncoder(name, config.d_model, max_tokens, lambda: load_parts(folder, config, compute))


def read_config(folder: Path) -> T5Config:
    """Reads the sizes.

    Raises:
        UserError: there is no config.json, or it is of another model.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(f"{path} is missing: give the folder that T5 was downloaded to")
    return T5Config.from_json(path.read_bytes())


def fingerprint(folder: Path) -> str:
    """Eight hexadecimal digits that differ where config, tokenizer or weights do.

    Of each file the size and 64 blocks of 64 KiB are read, not all of it: 4 MiB instead of 9.5 GB. Weights trained
    further differ in every block.

    Raises:
        UserError: a file is missing.
    """
    digest = hashlib.sha256()
    for path in (folder / "config.json", folder / "spiece.model", *find_files(folder)):
        if not path.is_file():
            raise UserError(f"{path} is missing: give the folder that T5 was downloaded to")
        digest.update(f"{path.name} {path.stat().st_size}".encode())
        for block in probe(path):
            digest.update(block)
    return digest.hexdigest()[:8]


def probe(path: Path) -> Iterator[bytes]:
    """Blocks of a file, evenly spaced from its first byte to its last; all of a small one."""
    size = path.stat().st_size
    with path.open("rb") as file:
        for start in np.linspace(0, max(size - PROBE_BYTES, 0), PROBES).astype(np.int64):
            file.seek(int(start))
            yield file.read(PROBE_BYTES)


def load_parts(folder: Path, config: T5Config, dtype: DTypeLike) -> EncoderParts:
    """Reads tokenizer and weights.

    Raises:
        UserError: a file is missing, damaged, or does not fit config.json.
    """
    tokenize = load_sentencepiece(folder / "spiece.model")
    parameters = import_t5_weights(
        SafetensorsFolder(folder), config, dtype, place=lambda path, array: jax.device_put(array)
    )
    encoder = T5Encoder(config, dtype)

    def apply(parameters: dict, ids: TokenIds, mask: TokenMask) -> TextEmbeddings:
        precision = "highest" if dtype == jnp.float32 else "default"
        with jax.default_matmul_precision(precision):
            hidden = encoder.apply({"params": parameters}, ids, mask)
        # Flax's type is a pair if collections are mutable; none is.
        return cast(TextEmbeddings, hidden)

    return EncoderParts(tokenize, apply, parameters)
