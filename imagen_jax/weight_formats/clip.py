"""Imports and exports whole CLIPs, of OpenAI, open_clip and Hugging Face's transformers.

    file or folder -> description and parameters -> folder in our layout, open_clip's or Hugging Face's

| layout | folder |
|---|---|
| imagen_jax | clip_config.json, clip.safetensors; holds every CLIP, see ``clip.folder`` |
| open_clip | open_clip_config.json, open_clip_model.safetensors, with the names of plain models |
| hugging_face | config.json, preprocessor_config.json, model.safetensors of ``CLIPModel``; only transformers |

The counts of batches that batch normalisation keeps (``num_batches_tracked``) are not written: they change no result.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from imagen_jax.clip.description import Description
from imagen_jax.clip.folder import (
    CONFIG,
    ClipFiles,
    read_clip_folder,
    write_clip_folder,
    write_files,
)
from imagen_jax.clip.hugging_face_folder import write_configs
from imagen_jax.clip.open_clip_folder import CONFIG as OPEN_CLIP_CONFIG
from imagen_jax.clip.open_clip_folder import WEIGHTS as OPEN_CLIP_WEIGHTS
from imagen_jax.clip.open_clip_folder import write_open_clip_config
from imagen_jax.clip.tokenizer import VOCABULARY, read_openai_vocabulary
from imagen_jax.clip.weights import HUGGING_FACE, export_parameters, open_clip_layout
from imagen_jax.encoders.pretrained_clip import check_tokenizer, read_clip_files
from imagen_jax.errors import UserError, lookup
from imagen_jax.storage.paths import Path
from imagen_jax.weights.safetensors_folder import SINGLES
from imagen_jax.weights.written_folder import STORED

FORMAT = "clip"
"""The value of ``--format`` that imports a CLIP."""


def export_open_clip(
    description: Description, params: Mapping[str, Any], folder: Path, dtype: str, tokenizer_files: Sequence[Path]
) -> None:
    """Writes a folder that open_clip loads as ``local-dir:FOLDER``; the arguments are those of ``export_clip``."""
    config = {OPEN_CLIP_CONFIG: write_open_clip_config(description)}
    tensors = export_parameters(params, open_clip_layout(description))
    write_files(folder, tensors, OPEN_CLIP_WEIGHTS, dtype, config, tokenizer_files)


def export_hugging_face(
    description: Description, params: Mapping[str, Any], folder: Path, dtype: str, tokenizer_files: Sequence[Path]
) -> None:
    """Writes a folder that ``CLIPModel.from_pretrained`` loads; the arguments are those of ``export_clip``.

    OpenAI's vocabulary becomes ``vocab.json`` and ``merges.txt``, which transformers reads.
    """
    configs: dict[str, Any] = write_configs(description)
    texts = {}
    for file in tokenizer_files:
        if file.name == VOCABULARY.name:
            numbers, merges = read_openai_vocabulary(file)
            configs = {"vocab.json": numbers, **configs}
            texts["merges.txt"] = "\n".join(["#version: 0.2", *map(" ".join, merges), ""])
    copied = [file for file in tokenizer_files if file.name not in (VOCABULARY.name, "tokenizer_config.json")]
    write_files(folder, export_parameters(params, HUGGING_FACE), SINGLES[0], dtype, configs, copied, texts)


LAYOUTS: dict[str, Callable[[Description, Mapping[str, Any], Path, str, Sequence[Path]], None]] = {
    "imagen_jax": lambda description, params, folder, dtype, files: write_clip_folder(
        folder, description, params, dtype, files
    ),
    "open_clip": export_open_clip,
    "hugging_face": export_hugging_face,
}


def import_clip(source: str, vocabulary: str = "") -> ClipFiles:
    """Reads a CLIP from OpenAI's file, or a folder in any of the layouts.

    Args:
        source: the file or folder, local or in a bucket.
        vocabulary: OpenAI's vocabulary, for weights without a tokenizer; "" for the one beside the weights or in its
            usual folder.

    Raises:
        UserError: a file is missing or damaged, or is of a network that is not implemented.
    """
    return read_clip_files(source, "", vocabulary)


def export_clip(
    description: Description,
    params: Mapping[str, Any],
    folder: Path,
    layout: str = "imagen_jax",
    dtype: str = "float32",
    tokenizer_files: Sequence[Path] = (),
) -> None:
    """Writes a CLIP as a folder. The configs are written last, so an incomplete folder is not taken for one.

    Args:
        description: the CLIP.
        params: ``{"image": …, "text": …, "logit_scale": …}``.
        folder: the output folder, created if missing.
        layout: a key of ``LAYOUTS``.
        dtype: the dtype of the stored parameters, a key of ``weights.written_folder.STORED``.
        tokenizer_files: the tokenizer's files, as in ``ClipFiles``.

    Raises:
        UserError: the layout or dtype is unknown, the layout has no such towers, or the folder already contains a model
            or can't be written to.
    """
    write = lookup(LAYOUTS, layout, "layout of a CLIP")
    lookup(STORED, dtype, "dtype")
    for name in (CONFIG, OPEN_CLIP_CONFIG, "config.json"):
        if (folder / name).exists():
            raise UserError(f"{folder} already contains a model: choose another --out")
    write(description, params, folder, dtype, tokenizer_files)


def import_clip_folder(source: str, folder: Path, vocabulary: str = "") -> None:
    """Imports a CLIP into a folder in our layout; the arguments are those of ``import_clip`` and ``export_clip``."""
    files = import_clip(source, vocabulary)
    export_clip(files.description, files.parameters, folder, tokenizer_files=files.tokenizer_files)


def export_clip_folder(source: Path, folder: Path, layout: str, dtype: str = "float32") -> None:
    """Exports a CLIP in our layout to another layout; the arguments are those of ``export_clip``."""
    lookup(LAYOUTS, layout, "layout of a CLIP")
    files = read_clip_folder(source)
    check_tokenizer(files)
    export_clip(files.description, files.parameters, folder, layout, dtype, files.tokenizer_files)
