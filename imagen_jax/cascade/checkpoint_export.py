"""Writes a trained stage as plain files for publication, and reads it back.

    FOLDER/config.json        the stage's config
    FOLDER/model.safetensors  the EMA of its parameters, keyed by path: ``down_0_0/conv_in/kernel``;
                              its metadata contain "step", the number of updates
    FOLDER/SHA256SUMS         the checksums of both, see ``weights.checksums``

Kernels keep Flax's order of axes: (height, width, in, out) and (in, out), for attention (in, heads, channels).
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from flax.traverse_util import flatten_dict

from imagen_jax.cascade.experiment import MODEL_SECTIONS, ModelConfig, read_saved_model
from imagen_jax.cascade.image_files import make_folder
from imagen_jax.cascade.stage import Params, abstract_params, build_stage
from imagen_jax.errors import lookup
from imagen_jax.models import Network
from imagen_jax.storage.paths import Path, absolute
from imagen_jax.training.workdir import read_config as read_stage_config
from imagen_jax.training.workdir import require_sections
from imagen_jax.weights.checksums import check_checksums
from imagen_jax.weights.named_tensors import flatten_shapes, import_weights
from imagen_jax.weights.safetensors_folder import SINGLES, SafetensorsFolder, read_metadata
from imagen_jax.weights.written_folder import STORED, write_weights

MAX_DIGITS = 18
"""Max number of digits of a step in a file's metadata."""


class ImportChoices(NamedTuple):
    """Options of an import that the folder of weights does not determine.

    Attributes:
        text_encoder: folder of T5, if it is not beside the weights.
        dtype: compute dtype of the network; None means that of the config, for DeepFloyd IF float32.
        text_dtype: compute dtype of T5; None means that of the config, for DeepFloyd IF bfloat16 (XXL takes 19 GB of
            memory in float32).
    """

    text_encoder: Path | None = None
    dtype: str | None = None
    text_dtype: str | None = None


NO_CHOICES = ImportChoices()


def write_files(
    folder: Path,
    settings: Mapping[str, Any],
    tensors: Mapping[str, np.ndarray],
    dtype: str = "float32",
    name: str = SINGLES[0],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes ``config.json``, a safetensors file, and the checksums of both.

    Args:
        folder: the output folder, created if missing.
        settings: contents of ``config.json``.
        tensors: tensors by name.
        dtype: dtype of the stored tensors, a key of ``STORED``.
        name: name of the safetensors file.
        metadata: metadata of the safetensors file.

    Raises:
        UserError: the dtype is unknown, or a file can't be written.
    """
    lookup(STORED, dtype, "dtype")
    make_folder(folder)
    config = (json.dumps(settings, indent=2, sort_keys=True) + "\n").encode()
    write_weights(folder, name, tensors, dtype, {"config.json": config}, metadata=metadata)


def name_params(params: Params) -> dict[str, np.ndarray]:
    """Returns the parameters as host arrays, keyed by path."""
    return {path: np.asarray(array) for path, array in flatten_dict(params, sep="/").items()}


def read_config(source: Path, choices: ImportChoices = NO_CHOICES) -> ModelConfig:
    """Reads the config in the folder, and changes it by ``choices``.

    Raises:
        UserError: there is no config, it can't be read, it is not that of a stage, or a file of the folder differs from
            its checksum.
    """
    check_checksums(source)
    saved = read_stage_config(source)
    purpose = "a stage: import a folder of DeepFloyd IF with --format=deepfloyd_if"
    require_sections(saved, MODEL_SECTIONS, source, purpose)
    config = read_saved_model(saved, source)
    changed: dict[str, str] = {}
    if choices.text_encoder is not None:
        changed["folder"] = str(absolute(choices.text_encoder))
    if choices.text_dtype is not None:
        changed["dtype"] = choices.text_dtype
    if changed:
        config = replace(config, text=replace(config.text, options={**config.text.options, **changed}))
    return config if choices.dtype is None else config.with_network(dtype=choices.dtype)


def read_params(source: Path, config: ModelConfig, network: type[Network] | None = None) -> dict:
    """Reads the parameters in the folder.

    Args:
        source: the folder.
        config: the stage's config.
        network: the class of its network, if the config names one of the user's own.

    Raises:
        UserError: the file is damaged or does not match the config; names file and tensor.
    """
    shapes = flatten_shapes(abstract_params(build_stage(config, network)))
    names = {path: path for path in shapes}
    return import_weights("stage's", SafetensorsFolder(source), shapes, names, turn=lambda path, tensor, shape: tensor)


def read_step(source: Path) -> int:
    """Returns the number of training updates of the parameters in the folder; 0 if the file does not contain it."""
    text = read_metadata(source).get("step", "")
    return int(text) if text.isdecimal() and text.isascii() and len(text) <= MAX_DIGITS else 0


def is_exported(folder: Path) -> bool:
    """Returns whether a folder holds an exported stage. Checkpoints take precedence, so it is False beside them."""
    return (folder / SINGLES[0]).is_file() and not (folder / "checkpoints").is_dir()


def write(config: ModelConfig, params: Params, step: int, folder: Path, dtype: str = "float32") -> None:
    """Exports a stage into ``folder``.

    Args:
        config: the stage's config.
        params: the EMA of its parameters.
        step: number of training updates.
        folder: the output folder, created if missing.
        dtype: dtype of the stored parameters, a key of ``STORED``.

    Raises:
        UserError: the dtype is unknown, or the folder can't be written to.
    """
    write_files(folder, config.to_dict(), name_params(params), dtype, metadata={"step": str(step)})
