"""The config of what is trained or sampled as frozen dataclasses, built once at the start of a program.

config of ``--config``, or saved config of a workdir -> ``Experiment``, ``ModelConfig`` or ``ClassifierExperiment``

Functions take one of these, a section, or single values, never a ``ConfigDict``.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from absl import logging

from imagen_jax.cascade.settings import ELSEWHERE
from imagen_jax.config.clip_sections import CLIP_SECTIONS, ClipConfig, ClipTrainingConfig, TowerConfig
from imagen_jax.config.codes_sections import CODES_SECTIONS, CodesConfig, CodesTrainingConfig
from imagen_jax.config.reading import Given, fit, key_types, known_keys, read_section, to_plain
from imagen_jax.config.section import Section
from imagen_jax.config.sections import (
    CLASSIFIER_SECTIONS,
    SECTIONS,
    ClassifierConfig,
    DataConfig,
    EmbeddingConfig,
    LoopConfig,
    MeshConfig,
    NetworkConfig,
    OptimizerConfig,
    PreviewConfig,
    SamplingConfig,
    StageConfig,
    TextConfig,
    TrainingConfig,
)
from imagen_jax.errors import UserError, nearest_name
from imagen_jax.runtime.renamed import rename_config_keys, rename_saved_keys
from imagen_jax.storage.paths import Path
from imagen_jax.training.workdir import FINGERPRINTS

MODEL_SECTIONS = ("network", "sampling", "stage", "text")
"""The sections that every stage has and sampling reads. ``embedding``, which sampling reads too, may be missing."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The config of a stage as far as sampling needs it.

    Attributes:
        text: the text encoder.
        stage: the images and the diffusion process.
        network: the network.
        sampling: the settings of sampling.
        embedding: the image embeddings that the stage makes or is told.
        others: the other sections of a saved config, as they were saved.
    """

    text: TextConfig
    stage: StageConfig
    network: NetworkConfig
    sampling: SamplingConfig
    embedding: EmbeddingConfig = dataclasses.field(default_factory=EmbeddingConfig)
    others: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def fingerprints(self) -> dict[str, str]:
        """What identifies the training data and the text encoder, see ``training.workdir``; empty if not saved."""
        return dict(self.others.get(FINGERPRINTS, {}))

    def with_network(self: "AnyModel", **changed: Any) -> "AnyModel":
        """Returns the config with other values of keys of its network."""
        network = read_section(NetworkConfig, self.network.to_dict() | changed, "network")
        return dataclasses.replace(self, network=network)

    def to_dict(self) -> dict[str, Any]:
        """Returns all sections as nested dicts."""
        values = {one.name: getattr(self, one.name) for one in dataclasses.fields(self) if one.name != "others"}
        plain = {name: value.to_dict() if isinstance(value, Section) else value for name, value in values.items()}
        return {**self.others, **plain}


AnyModel = TypeVar("AnyModel", bound=ModelConfig)


@dataclass(frozen=True, kw_only=True)
class Experiment(ModelConfig):
    """The config of a stage and its training.

    Attributes:
        seed: seed of the initial parameters and of the training's randomness.
        data: the training images.
        training: the training.
        optimizer: the optimizer.
        preview: the samples during training.
        mesh: the mesh of devices.
    """

    seed: int
    data: DataConfig
    training: TrainingConfig
    optimizer: OptimizerConfig
    preview: PreviewConfig
    mesh: MeshConfig


@dataclass(frozen=True, kw_only=True)
class ClassifierExperiment:
    """The config of a noisy classifier and its training.

    Attributes:
        seed: seed of the initial parameters and of the training's randomness.
        data: the training images.
        classifier: the classifier.
        training: the training.
        optimizer: the optimizer.
        mesh: the mesh of devices.
        given: the config as plain mappings, to save with the run.
    """

    seed: int
    data: DataConfig
    classifier: ClassifierConfig
    training: LoopConfig
    optimizer: OptimizerConfig
    mesh: MeshConfig
    given: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class ClipExperiment:
    """The config of a CLIP and its training.

    Attributes:
        seed: seed of the initial parameters and of the training's randomness.
        data: the training images.
        clip: the loss, and what the towers share.
        image_tower: the tower of images.
        text_tower: the tower of captions.
        training: the training.
        optimizer: the optimizer.
        mesh: the mesh of devices.
    """

    seed: int
    data: DataConfig
    clip: ClipConfig
    image_tower: TowerConfig
    text_tower: TowerConfig
    training: ClipTrainingConfig
    optimizer: OptimizerConfig
    mesh: MeshConfig

    def to_dict(self) -> dict[str, Any]:
        """Returns all sections as nested dicts."""
        values = {one.name: getattr(self, one.name) for one in dataclasses.fields(self)}
        return {name: value.to_dict() if isinstance(value, Section) else value for name, value in values.items()}


@dataclass(frozen=True, kw_only=True)
class CodesExperiment:
    """The config of a prior of codes and its training.

    Attributes:
        seed: seed of the initial parameters and of the training's randomness.
        data: the training images.
        codes: the CLIP and the codes of its embeddings.
        network: the network.
        training: the training.
        optimizer: the optimizer.
        mesh: the mesh of devices.
    """

    seed: int
    data: DataConfig
    codes: CodesConfig
    network: NetworkConfig
    training: CodesTrainingConfig
    optimizer: OptimizerConfig
    mesh: MeshConfig

    def to_dict(self) -> dict[str, Any]:
        """Returns all sections as nested dicts."""
        values = {one.name: getattr(self, one.name) for one in dataclasses.fields(self)}
        return {name: value.to_dict() if isinstance(value, Section) else value for name, value in values.items()}


def read_codes_experiment(config: Given | CodesExperiment) -> CodesExperiment:
    """Reads the config of a prior of codes and its training.

    Raises:
        UserError: as ``read_experiment``.
    """
    if isinstance(config, CodesExperiment):
        return config
    return CodesExperiment(**read_sections(to_renamed(config), CODES_SECTIONS))


def read_clip_experiment(config: Given | ClipExperiment) -> ClipExperiment:
    """Reads the config of a CLIP and its training.

    Raises:
        UserError: as ``read_experiment``.
    """
    if isinstance(config, ClipExperiment):
        return config
    return ClipExperiment(**read_sections(to_renamed(config), CLIP_SECTIONS))


def read_experiment(config: Given | Experiment) -> Experiment:
    """Reads the config of a stage and its training. The keys of a ``ConfigDict`` get their new names, in place.

    Raises:
        UserError: a section or key is unknown (the message names the nearest), has a value of another type, or is
            missing and has no default.
    """
    if isinstance(config, Experiment):
        return config
    return share_clip(Experiment(**read_sections(to_renamed(config), SECTIONS)))


def read_classifier_experiment(config: Given) -> ClassifierExperiment:
    """Reads the config of a classifier. The keys of a ``ConfigDict`` get their new names, in place.

    Raises:
        UserError: as ``read_experiment``.
    """
    plain = given = to_renamed(config)
    training = given.get("training")
    if isinstance(training, Mapping):
        # A config that started from a stage's has more keys there, which a classifier does not read.
        others = key_types(TrainingConfig).keys() - key_types(LoopConfig).keys()
        warn_of_no_effect([f"training.{key}" for key in sorted(others & training.keys())])
        plain = given | {"training": {key: value for key, value in training.items() if key not in others}}
    return ClassifierExperiment(**read_sections(plain, CLASSIFIER_SECTIONS), given=given)


def to_renamed(config: Given) -> dict[str, Any]:
    """Returns a config as nested dicts with the new names of its keys. Those of a ``ConfigDict`` change in place."""
    if isinstance(config, Mapping):
        return to_plain(rename_saved_keys(config))
    rename_config_keys(config)
    return to_plain(config)


def read_sections(plain: Mapping[str, Any], sections: Mapping[str, type[Section]]) -> dict[str, Any]:
    """Reads the seed and all sections of a config.

    Raises:
        UserError: as ``read_experiment``.
    """
    # A config may have the sections of a stage and of its classifier together.
    known = ("seed", *(SECTIONS | CLASSIFIER_SECTIONS | CLIP_SECTIONS | CODES_SECTIONS))
    for name in plain:
        if name not in known:
            raise UserError(f"unknown config key {name}{nearest_name(name, known)}")
    warn_of_no_effect([name for name in plain if name != "seed" and name not in sections])
    return {"seed": fit(plain.get("seed", 0), int, "seed"), **read_each(plain, sections)}


def read_model(config: Given | ModelConfig) -> ModelConfig:
    """Reads the sections of a config that sampling needs.

    Raises:
        UserError: as ``read_experiment``, for a key of these sections.
    """
    if isinstance(config, ModelConfig):
        return config
    plain = to_plain(config)
    names = (*MODEL_SECTIONS, "embedding")
    others = {name: value for name, value in plain.items() if name not in names}
    return share_clip(ModelConfig(**read_each(plain, {name: SECTIONS[name] for name in names}), others=others))


def share_clip(config: AnyModel) -> AnyModel:
    """Returns the config with the CLIP of its image embeddings as its text encoder too, if that has no folder."""
    text, clip = config.text, config.embedding.clip
    if text.encoder != "clip" or text.options.get("folder") or not clip:
        return config
    return dataclasses.replace(config, text=dataclasses.replace(text, options={**text.options, "folder": clip}))


def warn_of_no_effect(names: Sequence[str]) -> None:
    """Logs a warning that sections or keys of a config have no effect, if there are any."""
    if names:
        logging.warning("these have no effect here: %s", ", ".join(f"config.{name}" for name in names))


def read_saved_model(saved: Mapping[str, Any], where: Path) -> ModelConfig:
    """Reads the sections that sampling needs from a config that was saved in ``where``.

    Keys of the text encoder and of the stage that this version does not know are left out, with a warning.

    Raises:
        UserError: as ``read_experiment``, for another key.
    """
    known = {name: known_keys(SECTIONS[name], saved[name], f"{name} in {where}") for name in ("text", "stage")}
    return read_model({**saved, **known})


def read_each(plain: Mapping[str, Any], sections: Mapping[str, type[Section]]) -> dict[str, Any]:
    """Reads each of some sections; a missing one has only defaults."""
    return {
        name: read_section(kind, plain.get(name, {}), name, ELSEWHERE if name == "sampling" else None)
        for name, kind in sections.items()
    }
