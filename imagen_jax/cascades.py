"""A cascade ready to draw: stages from their workdirs, the text encoder, and one compiled program a stage.

workdirs -> config, EMA parameters -> SamplingStage of each -> Cascade
prompts -> text encoder -> keys of prompts -> batches of one size -> stage after stage -> images
"""

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict

from imagen_jax.array_types import LowResolution, Text
from imagen_jax.diffusion.null_text import null_text
from imagen_jax.errors import UserError, choose
from imagen_jax.sampling.cascade import (
    DrawStage,
    SamplingSettings,
    SamplingStage,
    check_order,
    draw_cascade,
    keys_of_prompts,
    make_draw_stage,
)
from imagen_jax.sampling.sampler import SPACINGS, OnStep
from imagen_jax.sampling.step_rules import STEP_RULES
from imagen_jax.sampling.thresholding import THRESHOLDS
from imagen_jax.stages import Stage, abstract_params, build_stage, load_encoder, make_denoiser
from imagen_jax.storage.paths import Path, to_path
from imagen_jax.text.encoder import TextEncoder
from imagen_jax.training.checkpoints import CheckpointStore
from imagen_jax.training.workdir import read_config, require_sections

NULL_CAPTIONS: dict[str, str | None] = {"zeros": None, "empty_caption": ""}
"""What ``text.null`` may be: Imagen's zeros, or the empty caption as the encoder embeds it (DeepFloyd IF)."""

HostImages = Float[np.ndarray, "batch height width 3"]


def make_settings(sampling: Mapping[str, Any]) -> SamplingSettings:
    """Makes the settings that ``config.sampling`` describes.

    Raises:
        UserError: an unknown sampler or thresholding, or a number out of its range.
    """
    level = sampling["augmentation_level"]
    if not 0.0 <= level <= 1.0:
        raise UserError(f"the augmentation level lies between 0 (clean) and 1 (noise), not at {level}")
    return SamplingSettings(
        steps=sampling["steps"],
        rule=choose(STEP_RULES, sampling["sampler"], "sampler")(),
        guidance_weight=float(sampling["guidance"]),
        threshold=choose(THRESHOLDS, sampling["thresholding"], "thresholding")(
            sampling["percentile"], sampling["largest_bound"]
        ),
        augmentation_level=level,
        spread=choose(SPACINGS, sampling["spacing"], "spacing"),
    )


def make_sampling_stage(stage: Stage, params: Any, settings: SamplingSettings) -> SamplingStage:
    """Shows a stage to the cascade."""

    def denoiser_of(params: Any, text: Text, low_resolution: LowResolution | None):
        return make_denoiser(stage, params, text, low_resolution)

    rule = settings.rule
    if stage.learns_variance and rule.reads_variance:
        settings = settings._replace(rule=rule._replace(name="ancestral, learned variance"))
    return SamplingStage(
        denoiser_of,
        params,
        stage.resolution,
        stage.low_resolution,
        stage.schedule,
        stage.augmentation_schedule,
        settings,
        stage.enlarge,
    )


class TrainedStage(NamedTuple):
    """One stage as training left it.

    Attributes:
        name: its workdir.
        config: its config.
        stage: the stage.
        params: the moving average of its parameters.
        step: updates made.
    """

    name: str
    config: ConfigDict
    stage: Stage
    params: Any
    step: int


def load_stage(workdir: Path) -> TrainedStage:
    """Loads a stage from its workdir, from the newest checkpoint.

    Raises:
        UserError: no config or no checkpoint there, or they do not fit each other.
    """
    config = read_config(workdir)
    require_sections(config, ("network", "sampling", "stage", "text"), workdir, "sampling")
    stage = build_stage(config)
    with CheckpointStore(workdir / "checkpoints") as checkpoints:
        params, step = checkpoints.restore_ema(abstract_params(stage))
    return TrainedStage(str(workdir), config, stage, params, step)


@dataclass
class Cascade:
    """Stages that draw one after the other.

    Attributes:
        stages: what is sampled, base first.
        names: what to call each stage, in errors.
        lengths: tokens that each stage's captions are padded to.
        null_captions: for each stage the caption that stands for none; None where zeros do.
        encoder: the text encoder they were trained with.
        batch_size: pictures drawn at once; the last batch is filled up, so that one compiled program serves all.
    """

    stages: Sequence[SamplingStage]
    names: Sequence[str]
    lengths: Sequence[int]
    null_captions: Sequence[str | None]
    encoder: TextEncoder
    batch_size: int = 8
    on_step: OnStep | None = None
    _draws: list[DrawStage] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        check_order(self.stages, self.names)
        if self.batch_size < 1:
            raise UserError(f"a batch holds at least 1 picture, not {self.batch_size}")
        self._draws = [make_draw_stage(stage, self.on_step) for stage in self.stages]

    @property
    def total_steps(self) -> int:
        """Denoising steps of all stages for one batch."""
        return sum(stage.settings.steps for stage in self.stages)

    def describe(self) -> dict[str, str]:
        """The settings of each stage in words, as a picture's metadata and a report have them."""
        described = {}
        for number, (name, stage) in enumerate(zip(self.names, self.stages, strict=True)):
            settings = stage.settings
            described[f"stage_{number}"] = (
                f"{to_path(name).name}: {stage.resolution} px, {settings.steps} steps of {settings.rule.name}, "
                f"guidance {settings.guidance_weight:g}, augmentation level {settings.augmentation_level:g}"
            )
        return described

    def draw(
        self,
        prompts: Sequence[str],
        indices: Sequence[int] | None = None,
        seed: int = 0,
        negative_prompt: str | None = None,
    ) -> Iterator[list[HostImages]]:
        """Draws a picture for each prompt, and yields them batch by batch: for each stage, its images of the batch.

        Args:
            prompts: one for each picture.
            indices: the picture's number among those of its prompt; 0 for each where left out.
            seed: the picture is a function of weights, prompt, seed and index (and the negative prompt).
            negative_prompt: what guidance leads away from, instead of no caption.

        Raises:
            UserError: there is no prompt.
        """
        if not prompts:
            raise UserError("there is nothing to draw: give at least one prompt, as in --prompt='red apple'")
        if negative_prompt is not None and all(stage.settings.guidance_weight == 1.0 for stage in self.stages):
            raise UserError("without guidance a negative prompt does nothing: set --guidance above 1, or leave it out")
        indices = [0] * len(prompts) if indices is None else indices
        for start in range(0, len(prompts), self.batch_size):
            batch = list(prompts[start : start + self.batch_size])
            picked = list(indices[start : start + self.batch_size])
            missing = self.batch_size - len(batch)
            filled = batch + batch[-1:] * missing
            keys = keys_of_prompts(seed, filled, picked + picked[-1:] * missing)
            drawn = draw_cascade(self.stages, self._draws, self.encode(filled, negative_prompt), keys)
            yield [np.asarray(images)[: len(batch)] for images in drawn]

    def encode(self, prompts: list[str], negative_prompt: str | None) -> list[tuple[Text, Text]]:
        """Encodes prompts for each stage, and beside them what guidance leads away from."""
        encode = functools.cache(self.encoder.encode)
        texts = []
        for length, null_caption in zip(self.lengths, self.null_captions, strict=True):
            text = encode(tuple(prompts), length)
            caption = null_caption if negative_prompt is None else negative_prompt
            unwanted = null_text(text)
            if caption is not None:
                # One caption for all: encoded once, for the encoder may be the larger half of the work.
                unwanted = jax.tree.map(
                    lambda array: jnp.repeat(array, len(prompts), axis=0), encode((caption,), length)
                )
            texts.append((text, unwanted))
        return texts


def load_cascade(
    workdirs: Sequence[str | Path],
    overrides: Mapping[str, Any] | None = None,
    batch_size: int = 8,
    on_step: OnStep | None = None,
) -> Cascade:
    """Loads a cascade from the workdirs of its stages, base first.

    Args:
        workdirs: one for each stage.
        overrides: keys of ``config.sampling`` and the value they take: one for all stages, or a list of one a stage.
        batch_size: pictures drawn at once.
        on_step: called after each denoising step.

    Raises:
        UserError: a workdir without a usable stage, stages that do not follow each other, text encoders that differ.
    """
    trained = [load_stage(to_path(workdir)) for workdir in workdirs]
    stages = []
    for number, one in enumerate(trained):
        sampling = one.config.sampling.to_dict() | pick_for_stage(overrides or {}, number, len(trained))
        stages.append(make_sampling_stage(one.stage, one.params, make_settings(sampling)))
    names = [one.name for one in trained]
    check_order(stages, names)
    encoders = [load_encoder(one.config.text) for one in trained]
    if len({encoder.name for encoder in encoders}) > 1:
        listed = ", ".join(f"{name} ({encoder.name})" for name, encoder in zip(names, encoders, strict=True))
        raise UserError(
            f"the stages were trained with different text encoders: {listed}; sample stages that share one, "
            "and import those of DeepFloyd IF with one --text_encoder and --text_dtype"
        )
    lengths = [one.stage.text_length for one in trained]
    null_captions = [choose(NULL_CAPTIONS, one.config.text.null, "text.null") for one in trained]
    return Cascade(stages, names, lengths, null_captions, encoders[0], batch_size, on_step)


def pick_for_stage(overrides: Mapping[str, Any], number: int, stages: int) -> dict[str, Any]:
    """The overrides of one stage: of a list its own entry, of anything else the one value.

    Raises:
        UserError: a list that has not one entry for each stage.
    """
    picked = {}
    for key, value in overrides.items():
        if isinstance(value, list | tuple):
            if len(value) not in (1, stages):
                raise UserError(
                    f"--{key} has {len(value)} values for {stages} stage(s): give one, or one for each stage"
                )
            value = value[number if len(value) > 1 else 0]
        picked[key] = value
    return picked
