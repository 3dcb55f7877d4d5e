"""Samples one stage; its images are the low-resolution condition of the next stage (Imagen, section 2.4)."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from imagen_jax.array_types import Denoiser, Estimate, Images, Keys, LowResolution, PerExample, SmallImages, Text
from imagen_jax.diffusion.augmentation import Enlarge, augment, leave_small
from imagen_jax.diffusion.process import add_noise
from imagen_jax.diffusion.schedules import Schedule
from imagen_jax.errors import UserError
from imagen_jax.runtime.backend import plain_implementations
from imagen_jax.runtime.seeds import check_seed
from imagen_jax.sampling.edits import Known, MakeTrajectory, Trajectory, full_trajectory, invert, keep_known
from imagen_jax.sampling.estimates import split_estimate
from imagen_jax.sampling.guidance import (
    ClassifierGuidance,
    Interval,
    guide,
    guide_batched,
    guide_by_classifier,
    limit_to_interval,
)
from imagen_jax.sampling.sampler import (
    OnStep,
    SamplerState,
    StepNumber,
    begin,
    fold_into_each,
    normal_for_each,
    sample,
    take_steps,
)
from imagen_jax.sampling.spacings import Spacing, space_uniformly
from imagen_jax.sampling.step_rules import StepRule, ddim
from imagen_jax.sampling.thresholding import Threshold, apply_threshold

Params = Any


class SamplingSettings(NamedTuple):
    """The sampling settings of one stage.

    Attributes:
        steps: number of denoising steps, at least 1.
        rule: the step rule, see ``step_rules`` and ``solvers``.
        guidance_weight: w in Imagen's convention, 1 for no guidance; see ``guidance``.
        threshold: thresholding of the estimate, see ``thresholding``.
        augmentation_level: noise level of the low-resolution condition, in [0, 1]; a base ignores it.
        spacing: the function that spaces the log-SNRs of the steps.
        interval: log-SNRs between which guidance is applied; None for all.
        batched_guidance: whether guidance calls the network once with twice the batch, instead of twice.
        classifier: additional classifier guidance; None for none.
    """

    steps: int
    rule: StepRule
    guidance_weight: float
    threshold: Threshold
    augmentation_level: float = 0.0
    spacing: Spacing = space_uniformly
    interval: Interval | None = None
    batched_guidance: bool = False
    classifier: ClassifierGuidance | None = None

    def describe(self) -> str:
        """Describes the settings in words."""
        words = [f"{self.steps} steps of {self.rule.name}", f"guidance {self.guidance_weight:g}"]
        if self.interval is not None:
            words.append(f"between log-SNR {self.interval.noisiest:g} and {self.interval.cleanest:g}")
        if self.classifier is not None:
            words.append(self.classifier.describe())
        return ", ".join([*words, f"augmentation level {self.augmentation_level:g}"])


class SamplingStage(NamedTuple):
    """A stage as the cascade samples it.

    Attributes:
        make_denoiser: ``(params, text, low_resolution) -> Denoiser``.
        resolution: height and width of its images.
        low_resolution: height and width of its condition; None for a base.
        schedule: time to log-SNR.
        augmentation_schedule: augmentation level to log-SNR.
        settings: its sampling settings.
        enlarge: function that enlarges the condition before noise is added, or leaves it small; see ``augmentation``.
    """

    make_denoiser: Callable[[Params, Text, LowResolution | None], Denoiser]
    resolution: int
    low_resolution: int | None
    schedule: Schedule
    augmentation_schedule: Schedule
    settings: SamplingSettings
    enlarge: Enlarge = leave_small


class Inputs(NamedTuple):
    """The inputs of a stage for one batch; all of them are arrays.

    Attributes:
        text: the encoded prompts.
        negative: the encoded null prompts or negative prompts.
        keys: one random key per image.
        low: images of the previous stage, in [-1, 1]; None for a base.
        image: clean images, noised to the first log-SNR to start from; None for pure noise.
        start: noisy images at the first log-SNR to start from, instead of ``image`` or noise.
        known: known images and the mask of the pixels to keep; None for none.
    """

    text: Text
    negative: Text
    keys: Keys
    low: SmallImages | None = None
    image: Images | None = None
    start: Images | None = None
    known: Known | None = None


OnEstimate = Callable[[Any], None]
"""Called on the host with the denoiser's estimate of the clean images, at each call of the denoiser."""

MAX_PREVIEW_SIDE = 256


class Calls(NamedTuple):
    """Host callbacks during the sampling of a stage.

    Attributes:
        on_step: called after each step with its number, see ``OnStep``.
        on_estimate: called with each estimate, see ``OnEstimate``.
    """

    on_step: OnStep | None = None
    on_estimate: OnEstimate | None = None


NO_CALLS = Calls()

Program = Callable[[Params, Inputs], Images]

MAX_PROGRESS_EVENTS = 32
"""Max number of times that the host runs the steps' program when there is a step callback."""


@runtime_checkable
class Sized(Protocol):
    """The resolutions of a stage."""

    @property
    def resolution(self) -> int:
        """Height and width of its images."""
        ...

    @property
    def low_resolution(self) -> int | None:
        """Height and width of its condition; None for a base."""
        ...


def check_order(stages: Sequence[Sized], names: Sequence[str], has_image: bool = False) -> None:
    """Checks that a base comes first, and that each later stage takes images of the previous stage's resolution.

    Args:
        stages: the stages in the order of sampling.
        names: names of the stages in error messages.
        has_image: whether there is an image for the first stage to enlarge, so that it need not be a base.

    Raises:
        UserError: there is no stage, or the order is wrong; names the stage and its resolutions.
    """
    if not stages:
        raise UserError("there is no stage to sample: give at least one workdir in --stages")
    previous: int | None = stages[0].low_resolution if has_image else None
    for stage, name in zip(stages, names, strict=True):
        if stage.low_resolution != previous:
            wanted = "no image (it is a base)" if stage.low_resolution is None else f"{stage.low_resolution}-px images"
            given = "it comes first" if previous is None else f"the stage before it makes {previous}-px images"
            raise UserError(
                f"the stage {name} takes {wanted}, but {given}: list --stages from the base to the highest resolution, "
                "or give an image for the first stage to enlarge with --image"
            )
        previous = stage.resolution


def keys_of_prompts(seed: int, prompts: Sequence[str], indices: Sequence[int]) -> Keys:
    """Returns one random key per image, independent of the other images of its batch.

    A key is a function of the seed, the prompt and the image's index among those of its prompt.

    Raises:
        UserError: the seed is invalid, see ``check_seed``.
    """
    seed = check_seed(seed)
    digests = [hashlib.sha256(prompt.encode()).digest() for prompt in prompts]
    words = np.array([int.from_bytes(digest[:4], "little") for digest in digests], np.uint32)

    def fold(word, index):
        return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), word), index)

    return jax.vmap(fold)(jnp.asarray(words), jnp.asarray(indices, jnp.uint32))


def trajectory_of(stage: SamplingStage, make_trajectory: MakeTrajectory) -> Trajectory:
    """Returns the log-SNRs of a stage's trajectory.

    Raises:
        UserError: the number of steps is below 1.
    """
    settings = stage.settings
    if settings.steps < 1:
        raise UserError(f"steps={settings.steps} is below 1: set --steps to at least 1")
    return make_trajectory(settings.spacing(stage.schedule, settings.steps))


@dataclass(frozen=True)
class StageSampler:
    """``sample(params, inputs) -> images``, clipped to [-1, 1], by two jitted programs.

    The second program takes any range of the steps. Without ``on_step`` it runs once. With ``on_step`` the host runs it
    for a few steps at a time and calls ``on_step`` in between. A host callback inside the program would keep it out of
    the compilation cache. The images are the same either way.

    Attributes:
        begin: ``(inputs) -> state``, a ``SamplerState``.
        advance: ``(params, inputs, state, first, end) -> state``, after the steps from ``first`` to before ``end``.
        steps: total number of steps.
        on_step: called after each step with its number; None for no callback.
    """

    begin: Callable[[Inputs], SamplerState]
    advance: jax.stages.Wrapped
    steps: int
    on_step: OnStep | None

    def lower(self, params: Params, inputs: Inputs) -> jax.stages.Lowered:
        """Lowers the second program; once compiled, sampling with arguments of these shapes reuses it."""
        number = np.asarray(0, np.int32)
        return self.advance.lower(params, inputs, self.begin(inputs), number, number)

    def __call__(self, params: Params, inputs: Inputs) -> Images:
        """Samples images, ``(batch, height, width, 3)`` in [-1, 1]."""
        state = self.begin(inputs)
        stride = self.steps if self.on_step is None else -(-self.steps // MAX_PROGRESS_EVENTS)
        for first in range(0, self.steps, stride):
            end = min(first + stride, self.steps)
            state = self.advance(params, inputs, state, np.asarray(first, np.int32), np.asarray(end, np.int32))
            if self.on_step is not None:
                jax.block_until_ready(state)
                for number in range(first, end):
                    self.on_step(number)
        return jnp.clip(state.noisy, -1.0, 1.0)


def make_draw_stage(
    stage: SamplingStage, calls: Calls = NO_CALLS, make_trajectory: MakeTrajectory = full_trajectory
) -> StageSampler:
    """Makes the programs that sample a stage.

    Args:
        stage: the stage.
        calls: host callbacks.
        make_trajectory: makes the trajectory from the log-SNRs of the stage's spacing, see ``sampling.edits``.
    """
    log_snrs = trajectory_of(stage, make_trajectory)
    rule = stage.settings.rule

    @jax.jit
    def begin_sampling(inputs: Inputs) -> SamplerState:
        return begin(rule, fold_into_each(inputs.keys, 0), image_shape(stage), start_of(stage, inputs, log_snrs))

    @jax.jit
    def advance(
        params: Params, inputs: Inputs, state: SamplerState, first: StepNumber, end: StepNumber
    ) -> SamplerState:
        denoise = report_estimates(make_denoiser(stage, params, inputs), calls.on_estimate)
        return take_steps(denoise, rule, log_snrs, fold_into_each(inputs.keys, 0), state, first, end)

    return StageSampler(begin_sampling, advance, len(log_snrs) - 1, calls.on_step)


def make_whole_program(stage: SamplingStage) -> Callable[[Params, Inputs], Images]:
    """Makes ``sample(params, inputs) -> images``, jitted: all steps of a stage in one program, for analysis.

    ``make_draw_stage`` runs the same steps. This program shows their compiled code and their cost.
    """
    log_snrs = trajectory_of(stage, full_trajectory)

    def draw(params: Params, inputs: Inputs) -> Images:
        keys, start = fold_into_each(inputs.keys, 0), start_of(stage, inputs, log_snrs)
        denoise = make_denoiser(stage, params, inputs)
        return jnp.clip(sample(denoise, stage.settings.rule, log_snrs, keys, image_shape(stage), start), -1.0, 1.0)

    return jax.jit(draw)


def image_shape(stage: SamplingStage) -> tuple[int, int, int]:
    """Returns height, width and channels of a stage's images."""
    return stage.resolution, stage.resolution, 3


def start_of(stage: SamplingStage, inputs: Inputs, log_snrs: Trajectory) -> Images | None:
    """Returns the noisy images that a stage starts from; None for pure noise."""
    if inputs.start is not None or inputs.image is None:
        return inputs.start
    noise = starting_noise(inputs.keys, stage.resolution)
    return add_noise(inputs.image, noise, jnp.full((noise.shape[0],), log_snrs[0]))


def report_estimates(denoise: Denoiser, on_estimate: OnEstimate | None) -> Denoiser:
    """Makes a denoiser that also calls ``on_estimate``, with images strided down to ``MAX_PREVIEW_SIDE`` pixels."""
    if on_estimate is None:
        return denoise

    def reporting(noisy: Images, log_snr: PerExample) -> Estimate:
        estimate = denoise(noisy, log_snr)
        image, _ = split_estimate(estimate)
        stride = -(-image.shape[1] // MAX_PREVIEW_SIDE)
        jax.debug.callback(on_estimate, image[:, ::stride, ::stride])
        return estimate

    return reporting


def check_invertible(stage: SamplingStage) -> None:
    """Checks that a stage's rule is deterministic DDIM, the only rule that can be inverted.

    Raises:
        UserError: it is another rule.
    """
    if stage.settings.rule.name != ddim().name:
        raise UserError(f"--invert needs ddim, not {stage.settings.rule.name}: set --sampler=ddim --eta=0")


def make_invert_stage(
    stage: SamplingStage, calls: Calls = NO_CALLS, make_trajectory: MakeTrajectory = full_trajectory
) -> Program:
    """Makes ``invert(params, inputs) -> noisy``, jitted: the noise from which DDIM samples ``inputs.image``.

    Raises:
        UserError: the stage's rule is not deterministic DDIM, the only rule that can be inverted.
    """
    check_invertible(stage)
    log_snrs = trajectory_of(stage, make_trajectory)

    def invert_image(params: Params, inputs: Inputs) -> Images:
        assert inputs.image is not None
        return invert(make_denoiser(stage, params, inputs), log_snrs, inputs.image)

    return jax.jit(invert_image)


def starting_noise(keys: Keys, resolution: int) -> Images:
    """Returns the standard normal noise that a stage starts from, ``(batch, resolution, resolution, 3)``."""
    return normal_for_each(fold_into_each(fold_into_each(keys, 0), 0), (resolution, resolution, 3))


def make_denoiser(stage: SamplingStage, params: Params, inputs: Inputs) -> Denoiser:
    """Makes the denoiser of a stage: conditioned, guided, thresholded, and with known pixels replaced."""
    settings = stage.settings
    low_resolution = None
    if inputs.low is not None:
        low = stage.enlarge(inputs.low, stage.resolution)
        noise = normal_for_each(fold_into_each(inputs.keys, 1), low.shape[1:])
        level = jnp.full((low.shape[0],), settings.augmentation_level)
        low_resolution = augment(low, noise, level, stage.augmentation_schedule)
    denoise = guide_by_classifier(guided(stage, params, inputs, low_resolution), settings.classifier)
    denoise = apply_threshold(denoise, settings.threshold)
    denoise = denoise if inputs.known is None else keep_known(denoise, inputs.known)
    # A CPU's own implementations pay for gradients. Without them they are about as fast as XLA's, and compile three
    # times as long (``tests/benchmarks/jax_versions.md``).
    return plain_implementations()(denoise)


def guided(stage: SamplingStage, params: Params, inputs: Inputs, low_resolution: LowResolution | None) -> Denoiser:
    """Makes the denoiser of a stage with the classifier-free guidance of its settings."""
    settings = stage.settings
    conditional = stage.make_denoiser(params, inputs.text, low_resolution)
    if settings.guidance_weight == 1.0:
        return conditional
    if settings.batched_guidance:
        texts, twice = jax.tree.map(
            lambda positive, negative: jnp.concatenate([positive, negative]),
            (inputs.text, low_resolution),
            (inputs.negative, low_resolution),
        )
        denoise = guide_batched(stage.make_denoiser(params, texts, twice), settings.guidance_weight)
    else:
        unconditional = stage.make_denoiser(params, inputs.negative, low_resolution)
        denoise = guide(conditional, unconditional, settings.guidance_weight)
    return limit_to_interval(settings.interval, denoise, conditional)
