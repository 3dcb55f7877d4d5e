"""Stage after stage: each one's images are the next one's low-resolution condition (Imagen, section 2.4)."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from imagen_jax.array_types import Denoiser, Images, Keys, LowResolution, SmallImages, Text
from imagen_jax.diffusion.augmentation import Enlarge, augment, leave_small
from imagen_jax.diffusion.schedules import Schedule
from imagen_jax.errors import UserError
from imagen_jax.sampling.guidance import guide
from imagen_jax.sampling.sampler import OnStep, Spread, fold_into_each, normal_for_each, sample, spread_uniformly
from imagen_jax.sampling.step_rules import StepRule
from imagen_jax.sampling.thresholding import Threshold, bound

Params = Any


class SamplingSettings(NamedTuple):
    """How to sample one stage.

    Attributes:
        steps: number of denoising steps, at least 1.
        rule: one step, see ``step_rules``.
        guidance_weight: w in the paper's convention, see ``guidance``.
        threshold: bound on the estimate, see ``thresholding``.
        augmentation_level: how noisy the low-resolution condition is made, in [0, 1]; a base ignores it.
        spread: which log-SNRs the steps are taken at.
    """

    steps: int
    rule: StepRule
    guidance_weight: float
    threshold: Threshold
    augmentation_level: float = 0.0
    spread: Spread = spread_uniformly


class SamplingStage(NamedTuple):
    """What the cascade knows of a stage.

    Attributes:
        make_denoiser: ``(params, text, low_resolution) -> Denoiser``.
        params: what ``make_denoiser`` takes.
        resolution: height and width of its images.
        low_resolution: height and width of its condition; None for a base.
        schedule: time to log-SNR.
        augmentation_schedule: augmentation level to log-SNR.
        settings: how to sample it.
        enlarge: what is done to the condition before noise is added to it, see ``augmentation``.
    """

    make_denoiser: Callable[[Params, Text, LowResolution | None], Denoiser]
    params: Params
    resolution: int
    low_resolution: int | None
    schedule: Schedule
    augmentation_schedule: Schedule
    settings: SamplingSettings
    enlarge: Enlarge = leave_small


DrawStage = Callable[[Params, Text, Text, Keys, SmallImages | None], Images]
"""``draw(params, text, unwanted, keys, low) -> images``, see ``make_draw_stage``."""


def check_order(stages: Sequence[SamplingStage], names: Sequence[str]) -> None:
    """Checks that a base comes first and that each later stage takes what the one before it makes.

    Raises:
        UserError: they don't; names the stage and its resolutions.
    """
    if not stages:
        raise UserError("there is no stage to sample: name at least one workdir in --stages")
    made: int | None = None
    for stage, name in zip(stages, names, strict=True):
        if stage.low_resolution != made:
            wanted = "no image (it is a base)" if stage.low_resolution is None else f"{stage.low_resolution}-px images"
            given = "it comes first" if made is None else f"the stage before it makes {made}-px images"
            raise UserError(
                f"the stage {name} takes {wanted}, but {given}: list --stages from the base to the largest resolution"
            )
        made = stage.resolution


def keys_of_prompts(seed: int, prompts: Sequence[str], indices: Sequence[int]) -> Keys:
    """One key for each picture, so that it stays the same whatever else is drawn beside it.

    A key is a function of the seed, the prompt and the picture's number among those of its prompt.
    """
    digests = [hashlib.sha256(prompt.encode()).digest() for prompt in prompts]
    words = np.array([int.from_bytes(digest[:4], "little") for digest in digests], np.uint32)

    def fold(word, index):
        return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), word), index)

    return jax.vmap(fold)(jnp.asarray(words), jnp.asarray(indices, jnp.uint32))


def make_draw_stage(stage: SamplingStage, on_step: OnStep | None = None) -> DrawStage:
    """Makes ``draw(params, text, unwanted, keys, low) -> images``, jitted: a stage's whole loop as one program.

    ``unwanted`` is the text of the unconditional denoiser, which guidance leads away from: the null text, or a caption
    of what is not wanted. ``low`` are the images of the stage before, in [-1, 1]; None for a base. The result is
    clipped to [-1, 1].
    """
    settings = stage.settings
    if settings.steps < 1:
        raise UserError(f"sampling takes at least 1 step, not {settings.steps}")
    shape = (stage.resolution, stage.resolution, 3)
    log_snrs = settings.spread(stage.schedule, settings.steps)

    def draw(params: Params, text: Text, unwanted: Text, keys: Keys, low: SmallImages | None) -> Images:
        low_resolution = None
        if low is not None:
            low = stage.enlarge(low, stage.resolution)
            noise = normal_for_each(fold_into_each(keys, 1), low.shape[1:])
            level = jnp.full((low.shape[0],), settings.augmentation_level)
            low_resolution = augment(low, noise, level, stage.augmentation_schedule)
        denoise = bound(
            guide(
                stage.make_denoiser(params, text, low_resolution),
                stage.make_denoiser(params, unwanted, low_resolution),
                settings.guidance_weight,
            ),
            settings.threshold,
        )
        images = sample(denoise, settings.rule, log_snrs, fold_into_each(keys, 0), shape, on_step)
        return jnp.clip(images, -1.0, 1.0)

    return jax.jit(draw)


def draw_cascade(
    stages: Sequence[SamplingStage],
    draws: Sequence[DrawStage],
    texts: Sequence[tuple[Text, Text]],
    keys: Keys,
) -> Iterator[Images]:
    """Draws one batch, and yields each stage's images in turn.

    Args:
        stages: base first; see ``check_order``.
        draws: ``make_draw_stage`` of each, made once for many batches.
        texts: the batch's captions, encoded for each stage, and beside them what guidance leads away from.
        keys: one for each picture, see ``keys_of_prompts``.
    """
    images: Images | None = None
    for number, (stage, draw, (text, unwanted)) in enumerate(zip(stages, draws, texts, strict=True)):
        images = draw(stage.params, text, unwanted, fold_into_each(keys, number), images)
        yield images
