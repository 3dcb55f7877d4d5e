"""Loads a trained stage from its workdir or exported files.

workdir or exported files -> config -> StagePlan -> EMA parameters -> TrainedStage
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import jax
import numpy as np

from imagen_jax.array_types import DTYPES
from imagen_jax.cascade import checkpoint_export
from imagen_jax.cascade.estimate_errors import with_estimate_errors
from imagen_jax.cascade.experiment import MODEL_SECTIONS, ModelConfig, read_saved_model
from imagen_jax.cascade.stage import Stage, abstract_params, build_stage
from imagen_jax.cascade.text_encoder import (
    check_encoder,
    check_encoder_is_there,
    load_encoder,
    load_tokenizer,
    move_encoder,
)
from imagen_jax.encoders.caption_tokens import CaptionTokenizer
from imagen_jax.encoders.encoder import TextEncoder
from imagen_jax.errors import UserError, lookup
from imagen_jax.models import Network
from imagen_jax.storage.paths import Path
from imagen_jax.training.checkpoints.store import CheckpointStore
from imagen_jax.training.workdir import read_config, require_sections
from imagen_jax.weights.checksums import check_checksums


class StagePlan(NamedTuple):
    """One stage whose config is read, but not its parameters.

    Attributes:
        folder: its workdir or exported folder.
        config: its config.
        stage: the stage, built from the config.
    """

    folder: Path
    config: ModelConfig
    stage: Stage

    @property
    def name(self) -> str:
        """The stage's name in messages and reports: its folder."""
        return str(self.folder)


@dataclass(frozen=True)
class TrainedStage:
    """One trained stage with its parameters.

    Attributes:
        name: its folder.
        config: its config.
        stage: the stage, built from the config.
        params: the EMA of its parameters.
        step: number of training updates.
    """

    name: str
    config: ModelConfig
    stage: Stage
    params: Any
    step: int

    @cached_property
    def sha256(self) -> str:
        """The hash of its parameters, computed once: seconds for a large network."""
        return hash_parameters(self.params)


def plan_stage(
    workdir: Path,
    dtype: str | None = None,
    text_encoder: str | Path | None = None,
    network: type[Network] | None = None,
    if_missing: str = "check the path, or leave out --stages to take the bundled cascade",
) -> StagePlan:
    """Reads only the config of a stage, not its parameters.

    Args:
        workdir: workdir of a training or an import, or a folder written by ``imagen_jax export_weights``.
        dtype: compute dtype of the network; None means that of the config.
        text_encoder: folder of the stage's T5, if it has moved since training.
        network: the class of the stage's network, if its config names one of the user's own.
        if_missing: what to do if there is no such folder, for the message.

    Raises:
        UserError: there is no config, it is not that of a stage or differs from its checksum, the dtype is unknown, or
            ``text_encoder`` is given and the stage's encoder is not T5.
    """
    if dtype is not None:
        lookup(DTYPES, dtype, "dtype")
    if checkpoint_export.is_exported(workdir):
        check_checksums(workdir, only=("config.json",))
    saved = read_config(workdir, if_missing)
    require_sections(saved, MODEL_SECTIONS, workdir, "sampling")
    config = with_estimate_errors(read_saved_model(saved, workdir), workdir)
    if dtype is not None:
        config = config.with_network(dtype=dtype)
    if text_encoder is not None:
        config = replace(config, text=move_encoder(config.text, text_encoder, str(workdir)))
    return StagePlan(workdir, config, build_stage(config, network if ":" in config.network.name else None))


def load_params(plan: StagePlan) -> TrainedStage:
    """Loads the parameters of a stage onto the host, from its newest checkpoint or from exported files.

    Raises:
        UserError: there are no parameters, they do not match the config, or an exported file differs from its checksum.
    """
    workdir, config, stage = plan
    own = type(stage.network) if ":" in config.network.name else None
    if checkpoint_export.is_exported(workdir):
        check_checksums(workdir)
        params, step = checkpoint_export.read_params(workdir, config, own), checkpoint_export.read_step(workdir)
        return TrainedStage(plan.name, config, stage, params, step)
    with CheckpointStore(workdir / "checkpoints") as checkpoints:
        params, step = checkpoints.restore_ema(abstract_params(stage))
    return TrainedStage(plan.name, config, stage, jax.device_get(params), step)


def load_stage(workdir: Path, dtype: str | None = None, network: type[Network] | None = None) -> TrainedStage:
    """Loads the config and the parameters of a stage onto the host.

    Args:
        workdir: workdir of a training or an import, or a folder written by ``imagen_jax export_weights``.
        dtype: compute dtype of the network; None means that of the config.
        network: the class of the stage's network, if its config names one of the user's own.

    Raises:
        UserError: there is no config or there are no parameters, they do not match, or the dtype is unknown.
    """
    return load_params(plan_stage(workdir, dtype, network=network))


def load_encoder_of(one: StagePlan | TrainedStage) -> TextEncoder:
    """Loads the text encoder that a stage was trained with.

    Raises:
        UserError: the encoder is missing or unusable, or is not the one used in training.
    """
    text = one.config.text
    check_encoder_is_there(text, one.name)
    encoder = load_encoder(text)
    check_encoder(encoder, one.config.fingerprints.get("text_encoder"), one.name)
    return encoder


def load_tokenizer_of(one: StagePlan | TrainedStage) -> CaptionTokenizer:
    """Loads the tokenizer that a stage was trained with.

    Raises:
        UserError: it is missing or damaged, or is not the one used in training.
    """
    return load_tokenizer(one.config.text, one.config.fingerprints.get("tokenizer"), one.name)


def load_shared_encoder(stages: Sequence[StagePlan]) -> TextEncoder | None:
    """Loads the text encoder of a cascade's stages; None if none has text.

    Raises:
        UserError: as ``load_encoder_of``, or the stages' encoders differ.
    """
    encoders = {one.name: load_encoder_of(one) for one in stages if one.stage.text_length}
    if len({encoder.name for encoder in encoders.values()}) > 1:
        listed = ", ".join(f"{name} ({encoder.name})" for name, encoder in encoders.items())
        raise UserError(
            f"the stages were trained with different text encoders: {listed}. Sample stages that share one, "
            "or import the stages of DeepFloyd IF with the same --text_encoder and --text_dtype"
        )
    return next(iter(encoders.values()), None)


def load_shared_tokenizer(stages: Sequence[StagePlan]) -> CaptionTokenizer | None:
    """Loads the tokenizer of a cascade's stages; None if none is told token ids.

    Raises:
        UserError: as ``load_tokenizer_of``, or the stages' tokenizers differ.
    """
    tokenizers = {one.name: load_tokenizer_of(one) for one in stages if one.stage.token_length}
    if len({tokenizer.name for tokenizer in tokenizers.values()}) > 1:
        listed = ", ".join(f"{name} ({tokenizer.name})" for name, tokenizer in tokenizers.items())
        raise UserError(f"the stages were trained with different tokenizers: {listed}. Sample stages that share one")
    return next(iter(tokenizers.values()), None)


def hash_parameters(params: Any) -> str:
    """Returns the SHA-256 of a network's parameters: their names, dtypes, shapes and bytes, in the order of names."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        array = np.asarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).view(np.uint8).reshape(-1).data)
    return digest.hexdigest()
