"""Loads a trained stage from its workdir or exported files, and makes its sampling settings.

workdir or exported files -> config, EMA parameters -> TrainedStage -> SamplingStage
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import jax
import numpy as np

from imagen_jax.array_types import DTYPES, LowResolution, Text
from imagen_jax.cascade import checkpoint_export
from imagen_jax.cascade.experiment import MODEL_SECTIONS, ModelConfig, read_saved_model
from imagen_jax.cascade.settings import check_settings
from imagen_jax.cascade.stage import Stage, abstract_params, build_stage, check_encoder, load_encoder, make_denoiser
from imagen_jax.cascade.stage_sampler import SamplingSettings, SamplingStage
from imagen_jax.config.sections import TextConfig
from imagen_jax.encoders import minilm
from imagen_jax.encoders.encoder import TextEncoder
from imagen_jax.errors import UserError, lookup
from imagen_jax.sampling.guidance import Interval
from imagen_jax.sampling.sampler import STEP_RULES
from imagen_jax.sampling.spacings import SPACINGS, check_discrete
from imagen_jax.sampling.thresholding import THRESHOLDS
from imagen_jax.storage.paths import Path, to_path
from imagen_jax.training.checkpoints.store import CheckpointStore
from imagen_jax.training.workdir import read_config, require_sections
from imagen_jax.weights.checksums import check_checksums


def make_settings(sampling: Mapping[str, Any]) -> SamplingSettings:
    """Makes the settings that ``config.sampling`` describes.

    Args:
        sampling: a value for every key of ``cascade.settings.SETTINGS``.

    Raises:
        UserError: a key, a sampler, a spacing or a thresholding is unknown, or a number is out of its range.
    """
    checked = check_settings(sampling)
    if checked["spacing"] == "discrete":
        check_discrete(checked["steps"])
    return SamplingSettings(
        steps=checked["steps"],
        rule=STEP_RULES[checked["sampler"]](checked["gamma"], checked["eta"]),
        guidance_weight=checked["guidance"],
        threshold=THRESHOLDS[checked["thresholding"]](checked["percentile"], checked["max_threshold"]),
        augmentation_level=checked["augmentation_level"],
        spacing=SPACINGS[checked["spacing"]],
        interval=Interval(*checked["guidance_interval"]) if checked["guidance_interval"] else None,
        batched_guidance=checked["batched_guidance"],
    )


def make_sampling_stage(stage: Stage, settings: SamplingSettings) -> SamplingStage:
    """Combines a stage with its sampling settings."""

    def denoiser_of(params: Any, text: Text, low_resolution: LowResolution | None):
        return make_denoiser(stage, params, text, low_resolution)

    rule = settings.rule
    if stage.learns_variance and rule.reads_variance:
        settings = settings._replace(rule=rule._replace(name="ancestral, learned variance"))
    return SamplingStage(
        denoiser_of,
        stage.resolution,
        stage.low_resolution,
        stage.schedule,
        stage.augmentation_schedule,
        settings,
        stage.enlarge,
    )


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


def plan_stage(workdir: Path, dtype: str | None = None, text_encoder: str | Path | None = None) -> StagePlan:
    """Reads only the config of a stage, not its parameters.

    Args:
        workdir: workdir of a training or an import, or a folder written by ``imagen_jax export_weights``.
        dtype: compute dtype of the network; None means that of the config.
        text_encoder: folder of the stage's T5, if it has moved since training.

    Raises:
        UserError: there is no config, it is not that of a stage or differs from its checksum, the dtype is unknown, or
            ``text_encoder`` is given and the stage's encoder is not T5.
    """
    if dtype is not None:
        lookup(DTYPES, dtype, "dtype")
    if checkpoint_export.is_exported(workdir):
        check_checksums(workdir, only=("config.json",))
    saved = read_config(workdir, "check the path, or leave out --stages to take the bundled cascade")
    require_sections(saved, MODEL_SECTIONS, workdir, "sampling")
    config = read_saved_model(saved, workdir)
    if dtype is not None:
        config = config.with_network(dtype=dtype)
    if text_encoder is not None:
        config = replace(config, text=move_encoder(config.text, text_encoder, str(workdir)))
    return StagePlan(workdir, config, build_stage(config))


def load_params(plan: StagePlan) -> TrainedStage:
    """Loads the parameters of a stage onto the host, from its newest checkpoint or from exported files.

    Raises:
        UserError: there are no parameters, they do not match the config, or an exported file differs from its checksum.
    """
    workdir, config, stage = plan
    if checkpoint_export.is_exported(workdir):
        check_checksums(workdir)
        params, step = checkpoint_export.read_params(workdir, config), checkpoint_export.read_step(workdir)
        return TrainedStage(plan.name, config, stage, params, step)
    with CheckpointStore(workdir / "checkpoints") as checkpoints:
        params, step = checkpoints.restore_ema(abstract_params(stage))
    return TrainedStage(plan.name, config, stage, jax.device_get(params), step)


def load_stage(workdir: Path, dtype: str | None = None) -> TrainedStage:
    """Loads the config and the parameters of a stage onto the host.

    Args:
        workdir: workdir of a training or an import, or a folder written by ``imagen_jax export_weights``.
        dtype: compute dtype of the network; None means that of the config.

    Raises:
        UserError: there is no config or there are no parameters, they do not match, or the dtype is unknown.
    """
    return load_params(plan_stage(workdir, dtype))


def move_encoder(text: TextConfig, folder: str | Path, stage: str) -> TextConfig:
    """Returns a stage's text section, changed so that its T5 is read from another folder.

    Args:
        text: the stage's text section.
        folder: the new folder of T5.
        stage: name of the stage in error messages.

    Raises:
        UserError: its text encoder is not T5.
    """
    if text.encoder != "t5":
        raise UserError(
            f"the text encoder of {stage} is {text.encoder}, which the package contains: leave --text_encoder out"
        )
    options = {**text.options, "folder": str(folder)}
    if options.get("tokenizer") and not to_path(options["tokenizer"]).is_file():
        options["tokenizer"] = ""
    return replace(text, options=options)


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


def check_encoder_is_there(text: TextConfig, stage: str) -> None:
    """Checks that the files of a stage's text encoder are on this machine, without reading them.

    Args:
        text: the stage's text section.
        stage: name of the stage in error messages.

    Raises:
        UserError: they are not.
    """
    folder = text.options.get("folder", "")
    if text.encoder == "t5" and not to_path(folder).is_dir():
        raise UserError(
            f"there is no folder {folder} with the T5 of {stage}: pass its current folder with --text_encoder"
        )
    if text.encoder == "minilm" and not folder:
        minilm.find_folder()


def hash_parameters(params: Any) -> str:
    """Returns the SHA-256 of a network's parameters: their names, dtypes, shapes and bytes, in the order of names."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        array = np.asarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).view(np.uint8).reshape(-1).data)
    return digest.hexdigest()
