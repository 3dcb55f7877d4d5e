"""Samples one stage; its images are the low-resolution condition of the next stage (Imagen, section 2.4)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from imagen_jax.array_types import Denoiser, Estimate, Keys, LowResolution, PerExample, Samples, SmallImages
from imagen_jax.cascade.stage import Params, Stage, make_denoiser, with_augmented
from imagen_jax.cascade.stage_inputs import Inputs
from imagen_jax.diffusion.augmentation import augment
from imagen_jax.diffusion.conditions import Conditions
from imagen_jax.diffusion.process import ValueRange, add_noise, clip_to_range
from imagen_jax.errors import UserError
from imagen_jax.runtime.backend import plain_implementations
from imagen_jax.sampling.edits import MakeTrajectory, Trajectory, full_trajectory, invert, keep_known
from imagen_jax.sampling.estimates import split_estimate
from imagen_jax.sampling.guidance import guide, guide_batched, guide_by_classifier, limit_to_interval
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
from imagen_jax.sampling.step_rules import ddim
from imagen_jax.sampling.thresholding import Clip, apply_threshold

OnEstimate = Callable[[Any], None]
"""Called on the host with the denoiser's estimate of the clean samples, at each call of the denoiser."""

MAX_PREVIEW_SIDE = 256

Program = Callable[[Params, Inputs], Samples]

MAX_PROGRESS_EVENTS = 32
"""Max number of times that the host runs the steps' program when there is a step callback."""


def check_order(stages: Sequence[Stage], names: Sequence[str], has_image: bool = False) -> None:
    """Checks that a base comes first, and that each later stage takes what the previous one makes.

    A stage that makes images is followed by one that enlarges images of that resolution. A stage that makes vectors, as
    a prior does, is followed by one that is told an image's vector of that width.

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
    vector = 0
    for stage, name in zip(stages, names, strict=True):
        if vector and stage.image_vector != vector:
            raise UserError(
                f"the stage {name} takes {f'vectors of {stage.image_vector}' if stage.image_vector else 'no vector'}, "
                f"but the stage before it makes vectors of {vector}: list --stages from the prior to the highest "
                "resolution"
            )
        if stage.low_resolution != previous:
            wanted = "no image (it is a base)" if stage.low_resolution is None else f"{stage.low_resolution}-px images"
            given = "it comes first" if previous is None else f"the stage before it makes {previous}-px images"
            raise UserError(
                f"the stage {name} takes {wanted}, but {given}: list --stages from the base to the highest resolution, "
                "or give an image for the first stage to enlarge with --image"
            )
        vector = stage.shape[0] if len(stage.shape) == 1 else 0
        previous = None if vector else stage.resolution


def trajectory_of(stage: Stage, make_trajectory: MakeTrajectory) -> Trajectory:
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
    """``sample(params, inputs) -> samples``, clipped to the stage's value range, by two jitted programs.

    The second program takes any range of the steps. Without ``on_step`` it runs once. With ``on_step`` the host runs it
    for a few steps at a time and calls ``on_step`` in between. A host callback inside the program would keep it out of
    the compilation cache. The samples are the same either way.

    Attributes:
        begin: ``(inputs) -> state``, a ``SamplerState``.
        advance: ``(params, inputs, state, first, end) -> state``, after the steps from ``first`` to before ``end``.
        steps: total number of steps.
        value_range: the values that samples may have; None for no limits.
        on_step: called after each step with its number; None for no callback.
    """

    begin: Callable[[Inputs], SamplerState]
    advance: jax.stages.Wrapped
    steps: int
    value_range: ValueRange | None
    on_step: OnStep | None

    def lower(self, params: Params, inputs: Inputs) -> jax.stages.Lowered:
        """Lowers the second program; once compiled, sampling with arguments of these shapes reuses it."""
        number = np.asarray(0, np.int32)
        return self.advance.lower(params, inputs, self.begin(inputs), number, number)

    def __call__(self, params: Params, inputs: Inputs) -> Samples:
        """Samples, ``(batch, *stage.shape)``."""
        state = self.begin(inputs)
        stride = self.steps if self.on_step is None else -(-self.steps // MAX_PROGRESS_EVENTS)
        for first in range(0, self.steps, stride):
            end = min(first + stride, self.steps)
            state = self.advance(params, inputs, state, np.asarray(first, np.int32), np.asarray(end, np.int32))
            if self.on_step is not None:
                jax.block_until_ready(state)
                for number in range(first, end):
                    self.on_step(number)
        return clip_to_range(state.noisy, self.value_range)


def make_draw_stage(
    stage: Stage,
    on_step: OnStep | None = None,
    on_estimate: OnEstimate | None = None,
    make_trajectory: MakeTrajectory = full_trajectory,
) -> StageSampler:
    """Makes the programs that sample a stage.

    Args:
        stage: the stage.
        on_step: called after each step with its number, see ``OnStep``.
        on_estimate: called with each estimate, see ``OnEstimate``.
        make_trajectory: makes the trajectory from the log-SNRs of the stage's spacing, see ``sampling.edits``.
    """
    log_snrs = trajectory_of(stage, make_trajectory)
    rule = stage.settings.rule

    @jax.jit
    def begin_sampling(inputs: Inputs) -> SamplerState:
        return begin(rule, fold_into_each(inputs.keys, 0), stage.shape, start_of(stage, inputs, log_snrs))

    @jax.jit
    def advance(
        params: Params, inputs: Inputs, state: SamplerState, first: StepNumber, end: StepNumber
    ) -> SamplerState:
        denoise = report_estimates(make_guided_denoiser(stage, params, inputs), on_estimate)
        return take_steps(denoise, rule, log_snrs, fold_into_each(inputs.keys, 0), state, first, end)

    return StageSampler(begin_sampling, advance, len(log_snrs) - 1, stage.value_range, on_step)


def make_whole_program(stage: Stage) -> Callable[[Params, Inputs], Samples]:
    """Makes ``sample(params, inputs) -> samples``, jitted: all steps of a stage in one program, for analysis.

    ``make_draw_stage`` runs the same steps. This program shows their compiled code and their cost.
    """
    log_snrs = trajectory_of(stage, full_trajectory)

    def draw(params: Params, inputs: Inputs) -> Samples:
        keys, start = fold_into_each(inputs.keys, 0), start_of(stage, inputs, log_snrs)
        denoise = make_guided_denoiser(stage, params, inputs)
        samples = sample(denoise, stage.settings.rule, log_snrs, keys, stage.shape, start)
        return clip_to_range(samples, stage.value_range)

    return jax.jit(draw)


def start_of(stage: Stage, inputs: Inputs, log_snrs: Trajectory) -> Samples | None:
    """Returns the noisy samples that a stage starts from; None for pure noise."""
    if inputs.start is not None or inputs.clean is None:
        return inputs.start
    noise = starting_noise(inputs.keys, stage.shape)
    return add_noise(inputs.clean, noise, jnp.full((noise.shape[0],), log_snrs[0]))


def report_estimates(denoise: Denoiser, on_estimate: OnEstimate | None) -> Denoiser:
    """Makes a denoiser that also calls ``on_estimate``, with images strided down to ``MAX_PREVIEW_SIDE`` pixels.

    Estimates that are no images, as those of a prior, are not reported.
    """
    if on_estimate is None:
        return denoise

    def reporting(noisy: Samples, log_snr: PerExample) -> Estimate:
        estimate = denoise(noisy, log_snr)
        clean, _ = split_estimate(estimate)
        if clean.ndim == 4:
            stride = -(-clean.shape[1] // MAX_PREVIEW_SIDE)
            jax.debug.callback(on_estimate, clean[:, ::stride, ::stride])
        return estimate

    return reporting


def check_invertible(stage: Stage) -> None:
    """Checks that a stage's rule is deterministic DDIM, the only rule that can be inverted.

    Raises:
        UserError: it is another rule.
    """
    if stage.settings.rule.name != ddim().name:
        raise UserError(f"--invert needs ddim, not {stage.settings.rule.name}: set --sampler=ddim --eta=0")


def make_invert_stage(
    stage: Stage,
    on_step: OnStep | None = None,
    on_estimate: OnEstimate | None = None,
    make_trajectory: MakeTrajectory = full_trajectory,
) -> Program:
    """Makes ``invert(params, inputs) -> noisy``, jitted: the noise from which DDIM samples ``inputs.clean``.

    Raises:
        UserError: the stage's rule is not deterministic DDIM, the only rule that can be inverted.
    """
    check_invertible(stage)
    log_snrs = trajectory_of(stage, make_trajectory)

    def invert_image(params: Params, inputs: Inputs) -> Samples:
        assert inputs.clean is not None
        return invert(make_guided_denoiser(stage, params, inputs), log_snrs, inputs.clean)

    return jax.jit(invert_image)


def starting_noise(keys: Keys, shape: tuple[int, ...]) -> Samples:
    """Returns the standard normal noise that a stage starts from, ``(batch, *shape)``."""
    return normal_for_each(fold_into_each(fold_into_each(keys, 0), 0), shape)


def make_guided_denoiser(stage: Stage, params: Params, inputs: Inputs) -> Denoiser:
    """Makes the denoiser of a stage: conditioned, guided, thresholded, and with known pixels replaced."""
    settings = stage.settings

    def augment_at_level(small: SmallImages) -> LowResolution:
        noise = normal_for_each(fold_into_each(inputs.keys, 1), small.shape[1:])
        level = jnp.full((small.shape[0],), settings.augmentation_level)
        return augment(small, noise, level, stage.augmentation_schedule)

    conditions = with_augmented(stage, inputs.conditions, augment_at_level)
    unwanted = inputs.unwanted._replace(low_resolution=conditions.low_resolution)
    denoise = guided(stage, params, conditions, unwanted)
    denoise = guide_by_classifier(denoise, settings.classifier)
    # Other thresholds are made for the range of images.
    if stage.value_range is not None or isinstance(settings.threshold, Clip):
        denoise = apply_threshold(denoise, settings.threshold)
    denoise = denoise if inputs.known is None else keep_known(denoise, inputs.known)
    # A CPU's own implementations pay for gradients. Without them they are about as fast as XLA's, and compile three
    # times as long (``tests/benchmarks/jax_versions.md``).
    return plain_implementations()(denoise)


def guided(stage: Stage, params: Params, conditions: Conditions, unwanted: Conditions) -> Denoiser:
    """Makes the denoiser of a stage with the classifier-free guidance of its settings."""
    settings = stage.settings
    conditional = make_denoiser(stage, params, conditions)
    if settings.guidance_weight == 1.0:
        return conditional
    if settings.batched_guidance:
        both = jax.tree.map(lambda *parts: jnp.concatenate(parts), conditions, unwanted)
        denoise = guide_batched(make_denoiser(stage, params, both), settings.guidance_weight)
    else:
        denoise = guide(conditional, make_denoiser(stage, params, unwanted), settings.guidance_weight)
    return limit_to_interval(settings.interval, denoise, conditional)
