"""Reads a CLIP from a folder in one of three layouts, and writes one in our own.

    clip_config.json, clip.safetensors              our own: a description, and parameters under their paths
    open_clip_config.json, open_clip_model…         open_clip's
    config.json, model.safetensors                  that of Hugging Face's transformers

The tokenizer's files are beside them. A tokenizer that has OpenAI's vocabulary may be in its usual folder instead.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from flax.traverse_util import flatten_dict

from imagen_jax.clip.description import Description, read_description, shapes_of
from imagen_jax.clip.feature_head import FROZEN
from imagen_jax.clip.hugging_face_folder import read_config
from imagen_jax.clip.open_clip_folder import CONFIG as OPEN_CLIP_CONFIG
from imagen_jax.clip.open_clip_folder import PICKLE, read_open_clip_config
from imagen_jax.clip.open_clip_folder import WEIGHTS as OPEN_CLIP_WEIGHTS
from imagen_jax.clip.tokenizer import (
    VOCABULARY,
    VOCABULARY_FLAG,
    find_openai_vocabulary,
    load_folder_tokenizer,
    load_openai_vocabulary,
)
from imagen_jax.clip.weights import (
    HUGGING_FACE,
    import_parameters,
    open_clip_layout,
    remove_text_prefix,
)
from imagen_jax.data.tokenizer import PADDING_ID, Tokenize
from imagen_jax.errors import UserError
from imagen_jax.storage.local_copies import local_copy
from imagen_jax.storage.paths import Path, checksum_of
from imagen_jax.weights.checksums import check_checksums
from imagen_jax.weights.json_settings import read_settings
from imagen_jax.weights.known_files import find_known_file
from imagen_jax.weights.named_tensors import import_weights
from imagen_jax.weights.safetensors_folder import SafetensorsFile, SafetensorsFolder, find_files
from imagen_jax.weights.torch_file import read_torch_file
from imagen_jax.weights.written_folder import write_weights

CONFIG = "clip_config.json"
WEIGHTS = "clip.safetensors"

TRAINED = "clip"
"""Folder of the weights in the workdir of a CLIP's training."""

TOKENIZER_FILES = (VOCABULARY.name, "tokenizer.json", "vocab.json", "merges.txt", "tokenizer_config.json")
"""The files of tokenizers, which are copied with the weights."""


def is_clip_folder(folder: Path) -> bool:
    """Returns whether a folder is a CLIP in our layout, or the workdir of a CLIP's training."""
    return (folder / CONFIG).is_file() or (folder / TRAINED / CONFIG).is_file()


class ClipFiles(NamedTuple):
    """The contents of a weights file or folder.

    Attributes:
        description: the towers, and how their inputs are prepared.
        parameters: ``{"image": …, "text": …, "logit_scale": …}``, float32.
        tokenize: the tokenizer, a ``data.tokenizer.Tokenize``.
        sha256: the checksum of the weights.
        tokenizer_files: the files of the tokenizer.
    """

    description: Description
    parameters: dict[str, Any]
    tokenize: Tokenize
    sha256: str
    tokenizer_files: Sequence[Path] = ()


def read_clip_folder(folder: Path, vocabulary: str = "") -> ClipFiles:
    """Reads a folder in any of the three layouts.

    Args:
        folder: the folder, or the workdir of a CLIP's training.
        vocabulary: OpenAI's vocabulary, for a folder without a tokenizer; "" for the one in its usual folder.

    Raises:
        UserError: a file is missing or damaged, or is of another model.
    """
    if (folder / TRAINED / CONFIG).is_file():
        return read_own_folder(folder / TRAINED)
    if (folder / CONFIG).is_file():
        return read_own_folder(folder)
    if (folder / OPEN_CLIP_CONFIG).is_file():
        return read_open_clip_folder(folder, vocabulary)
    description = read_config(folder / "config.json")
    tokenize = load_tokenizer_of(folder, description)
    parameters = import_parameters(SafetensorsFolder(folder), description, HUGGING_FACE)
    checksums = [checksum_of(local_copy(file)) for file in find_files(folder)]
    sha256 = checksums[0] if len(checksums) == 1 else hashlib.sha256("".join(checksums).encode()).hexdigest()
    return ClipFiles(description, parameters, tokenize, sha256, find_tokenizer_files(folder))


def read_own_folder(folder: Path) -> ClipFiles:
    """Reads a folder that ``write_clip_folder`` wrote.

    Raises:
        UserError: a file is missing or damaged, or the weights do not fit the description.
    """
    check_checksums(folder)
    description = read_description(read_settings(folder / CONFIG), folder / CONFIG)
    tokenize = load_tokenizer_of(folder, description)
    tensors = SafetensorsFile(folder / WEIGHTS)
    shapes = shapes_of(description)
    advice = f"use the {CONFIG} that came with them"
    parameters = import_weights(
        "CLIP", tensors, shapes, {path: path for path in shapes}, turn=lambda path, tensor, shape: tensor, advice=advice
    )
    sha256 = checksum_of(local_copy(folder / WEIGHTS))
    return ClipFiles(description, parameters, tokenize, sha256, find_tokenizer_files(folder))


def read_open_clip_folder(folder: Path, vocabulary: str = "") -> ClipFiles:
    """Reads a folder of open_clip: its config, and its safetensors or state dict.

    Args:
        folder: the folder.
        vocabulary: OpenAI's vocabulary, for a folder without a tokenizer; "" for the one in its usual folder.

    Raises:
        UserError: a file is missing or damaged, or describes a network that is not implemented.
    """
    description = read_open_clip_config(folder / OPEN_CLIP_CONFIG, read_separator(folder))
    files = find_tokenizer_files(folder)
    if files:
        tokenize = load_tokenizer_of(folder, description)
    elif description.clean == "lower" and not description.stripped_token:
        found = find_known_file(vocabulary, VOCABULARY, VOCABULARY_FLAG)
        tokenize, files = load_openai_vocabulary(found.path), [found.path]
    else:
        raise UserError(f"{folder} has no tokenizer.json: download the tokenizer's files too")
    weights = next((folder / name for name in (OPEN_CLIP_WEIGHTS, PICKLE) if (folder / name).is_file()), None)
    if weights is None:
        raise UserError(f"{folder} has neither {OPEN_CLIP_WEIGHTS} nor {PICKLE}: download the weights too")
    copy = local_copy(weights)
    tensors = read_torch_file(copy) if weights.name == PICKLE else SafetensorsFile(weights)
    parameters = import_parameters(remove_text_prefix(tensors), description, open_clip_layout(description))
    return ClipFiles(description, parameters, tokenize, checksum_of(copy), files)


def read_separator(folder: Path) -> str:
    """Returns the separator token in ``tokenizer_config.json``; "" if there is none.

    Raises:
        UserError: the file is damaged.
    """
    path = folder / "tokenizer_config.json"
    token = read_settings(path).get("sep_token") if path.is_file() else None
    named = token.get("content") if isinstance(token, dict) else token
    return named if isinstance(named, str) else ""


def find_tokenizer_files(folder: Path) -> list[Path]:
    """Returns the files of a tokenizer in a folder."""
    return [folder / name for name in TOKENIZER_FILES if (folder / name).is_file()]


def load_tokenizer_of(folder: Path, description: Description) -> Tokenize:
    """Returns the tokenizer in a folder, with the cleaning of the description.

    Raises:
        UserError: its files are missing or damaged.
    """
    if description.text["name"] == FROZEN:
        return refuse_tokens
    if (words := find_openai_vocabulary(folder)) is not None:
        return load_openai_vocabulary(words, description.clean)
    tokenize = load_folder_tokenizer(folder, description.clean)
    if not description.stripped_token:
        return tokenize
    stripped = find_token_id(folder / "tokenizer.json", description.stripped_token)
    return lambda captions: [[PADDING_ID if one == stripped else one for one in ids] for ids in tokenize(captions)]


def refuse_tokens(captions: Sequence[str]) -> list[list[int]]:
    """Stands for the tokenizer of a text tower that takes features.

    Raises:
        UserError: always.
    """
    raise UserError("the text tower of this CLIP takes features of a frozen encoder, and no tokens: use another CLIP")


def find_token_id(path: Path, token: str) -> int:
    """Returns the id of an added token in a ``tokenizer.json``.

    Raises:
        UserError: the file is damaged or has no such token.
    """
    added = read_settings(path).get("added_tokens")
    for entry in added if isinstance(added, list) else ():
        if isinstance(entry, dict) and entry.get("content") == token and isinstance(entry.get("id"), int):
            return entry["id"]
    raise UserError(f"{path} has no added token {token!r}: use the tokenizer that came with the weights")


def write_clip_folder(
    folder: Path,
    description: Description,
    params: Mapping[str, Any],
    dtype: str = "float32",
    tokenizer_files: Sequence[Path] = (),
) -> None:
    """Writes a CLIP in our own layout. The config is written last, so an incomplete folder is not taken for one.

    Args:
        folder: the output folder, created if missing.
        description: the CLIP.
        params: ``{"image": …, "text": …, "logit_scale": …}``.
        dtype: the dtype of the stored parameters, a key of ``written_folder.STORED``.
        tokenizer_files: files to copy, as those in ``ClipFiles``.

    Raises:
        UserError: the dtype is unknown, the parameters do not fit the description, or a file can't be written.
    """
    arrays = {path: np.asarray(array) for path, array in flatten_dict(params, sep="/").items()}
    shapes = {path: shape.shape for path, shape in shapes_of(description).items()}
    if {path: array.shape for path, array in arrays.items()} != shapes:
        raise UserError("the parameters are not those of the described CLIP: describe its towers")
    config = {CONFIG: description.to_json()}
    write_files(folder, arrays, WEIGHTS, dtype, config, tokenizer_files)


def write_files(
    folder: Path,
    tensors: Mapping[str, np.ndarray],
    name: str,
    dtype: str,
    configs: Mapping[str, Any],
    copied: Sequence[Path],
    texts: Mapping[str, str] | None = None,
) -> None:
    """Writes a safetensors file, copies files beside it, and writes checksums and JSON files, in this order.

    Args:
        folder: the output folder, created if missing.
        tensors: tensors by name.
        name: the name of the safetensors file.
        dtype: the dtype of the stored tensors, a key of ``written_folder.STORED``.
        configs: the contents of the JSON files by name.
        copied: the files to copy.
        texts: the contents of other text files by name.

    Raises:
        UserError: the dtype is unknown, or a file can't be written.
    """
    encoded = {key: text.encode() for key, text in (texts or {}).items()}
    beside = {source.name: source.read_bytes() for source in copied} | encoded
    last = {key: (json.dumps(value, indent=2) + "\n").encode() for key, value in configs.items()}
    write_weights(folder, name, tensors, dtype, last, beside)
