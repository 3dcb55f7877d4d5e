"""A stage as training left it, and how it is sampled: from a workdir to what the cascade takes.

workdir or exported files -> config, EMA parameters -> TrainedStage -> SamplingStage
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from imagen_jax import stage_files
from imagen_jax.array_types import DTYPES, LowResolution, Text
from imagen_jax.errors import UserError, choose
from imagen_jax.sampling.cascade import SamplingSettings, SamplingStage
from imagen_jax.sampling.guidance import LARGEST_GUIDANCE, Interval
from imagen_jax.sampling.sampler import STEP_RULES
from imagen_jax.sampling.spacings import SPACINGS
from imagen_jax.sampling.thresholding import THRESHOLDS
from imagen_jax.stages import Stage, abstract_params, build_stage, make_denoiser
from imagen_jax.storage.paths import Path
from imagen_jax.training.checkpoints import CheckpointStore
from imagen_jax.training.workdir import read_config, require_sections
from imagen_jax.weights.checksums import check_checksums


def make_settings(sampling: Mapping[str, Any]) -> SamplingSettings:
    """Makes the settings that ``config.sampling`` describes.

    Raises:
        UserError: an unknown sampler or thresholding, or a number out of its range.
    """
    for name in ("gamma", "eta"):
        if not 0.0 <= sampling[name] <= 1.0:
            raise UserError(f"{name} lies between 0 and 1, not at {sampling[name]:g}")
    if not abs(sampling["guidance"]) <= LARGEST_GUIDANCE:
        raise UserError(
            f"the guidance weight is {sampling['guidance']}: give one such as 3, {LARGEST_GUIDANCE:g} at most"
        )
    level = sampling["augmentation_level"]
    if not 0.0 <= level <= 1.0:
        raise UserError(f"the augmentation level lies between 0 (clean) and 1 (noise), not at {level}")
    return SamplingSettings(
        steps=sampling["steps"],
        rule=choose(STEP_RULES, sampling["sampler"], "sampler")(sampling["gamma"], sampling["eta"]),
        guidance_weight=float(sampling["guidance"]),
        threshold=choose(THRESHOLDS, sampling["thresholding"], "thresholding")(
            sampling["percentile"], sampling["largest_bound"]
        ),
        augmentation_level=level,
        spacing=choose(SPACINGS, sampling["spacing"], "spacing"),
        interval=read_interval(sampling["guidance_interval"]),
        guide_at_once=sampling["guide_at_once"],
    )


def read_interval(ends: Sequence[float] | None) -> Interval | None:
    """The interval of guidance that two log-SNRs bound; None where there are none.

    Raises:
        UserError: there are not two, or they are in the wrong order.
    """
    if not ends:
        return None
    if len(ends) != 2 or not ends[0] <= ends[1]:
        raise UserError(f"a guidance interval is two log-SNRs, the lower one first, such as -4,3, not {list(ends)}")
    return Interval(float(ends[0]), float(ends[1]))


def make_sampling_stage(stage: Stage, settings: SamplingSettings) -> SamplingStage:
    """Shows a stage to the cascade."""

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


class TrainedStage(NamedTuple):
    """One stage as training left it.

    Attributes:
        name: its folder.
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


def load_stage(workdir: Path, dtype: str | None = None) -> TrainedStage:
    """Loads a stage onto the host: from the newest checkpoint of its workdir, or from files that were exported.

    Args:
        workdir: of its training, or of an import; or a folder that ``imagen_jax.export_weights`` wrote.
        dtype: what the network computes in; None leaves it to the config.

    Raises:
        UserError: no config or no parameters there, they do not fit each other, or exported files are not as they were
            written.
    """
    is_exported = stage_files.is_exported(workdir)
    if is_exported:
        check_checksums(workdir)
    config = read_config(workdir)
    require_sections(config, ("network", "sampling", "stage", "text"), workdir, "sampling")
    if dtype is not None:
        choose(DTYPES, dtype, "dtype")
        config.network.dtype = dtype
    stage = build_stage(config)
    if is_exported:
        params, step = stage_files.read_params(workdir, config), stage_files.read_step(workdir)
        return TrainedStage(str(workdir), config, stage, params, step)
    with CheckpointStore(workdir / "checkpoints") as checkpoints:
        params, step = checkpoints.restore_ema(abstract_params(stage))
    return TrainedStage(str(workdir), config, stage, jax.device_get(params), step)
