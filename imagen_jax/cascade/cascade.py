"""Samples from a cascade: its trained stages, the text encoder, and the compiled program of each stage.

folders, or a name -> config, EMA parameters -> TrainedStage of each -> Cascade
requests (prompt, index), an edit -> text encoder, keys -> batches of one size -> stage after stage -> images

An image depends on the weights, its request, the seed and the edit. It does not depend on the batch size or on the
other images of its batch.
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from PIL import Image

from imagen_jax.array_types import Samples
from imagen_jax.cascade.edits import NO_EDIT, Edit
from imagen_jax.cascade.image_files import to_pixels
from imagen_jax.cascade.loading import TrainedStage, load_params, load_shared_encoder, load_shared_tokenizer
from imagen_jax.cascade.plans import (
    CascadePlan,
    check_classifier,
    check_conditionings,
    check_effects,
    check_images,
    check_makes_images,
    plan_cascade,
    stages_with,
)
from imagen_jax.cascade.request_inputs import RequestInputs
from imagen_jax.cascade.requests import ImageRequest
from imagen_jax.cascade.sampling_programs import Programs
from imagen_jax.cascade.sampling_progress import show_steps
from imagen_jax.cascade.settings import ELSEWHERE, SETTINGS, at_least_one, refuse_sizes
from imagen_jax.cascade.stage import parameter_axes
from imagen_jax.cascade.stage_inputs import Inputs, hand_on, labels_of
from imagen_jax.cascade.stage_sampler import OnEstimate, StageSampler, make_draw_stage, make_invert_stage, trajectory_of
from imagen_jax.clip.embedding_space import choose_nearest
from imagen_jax.data.pixels import with_channels
from imagen_jax.encoders.caption_tokens import CaptionTokenizer
from imagen_jax.encoders.encoder import TextEncoder
from imagen_jax.errors import UserError, check_names, names_its_arguments
from imagen_jax.models import Network
from imagen_jax.runtime.memory import release_memory
from imagen_jax.runtime.progress_bars import compiling
from imagen_jax.runtime.seeds import check_seed
from imagen_jax.sampling.guidance import ClassifierGuidance
from imagen_jax.sampling.sampler import OnStep, fold_into_each
from imagen_jax.sharding.mesh import make_mesh
from imagen_jax.sharding.placement import batch_placement, num_batch_shards, place_state
from imagen_jax.storage.paths import Path, to_path

MAX_ADJUSTED = MAX_TRAJECTORIES = 16
"""Max number of cached adjusted cascades; and, times the number of stages, max number of cached programs."""

HostImages = Float[np.ndarray, "batch height width 3"]


@dataclass
class Cascade:
    """Stages that sample one after the other, on all devices of this process.

    Attributes:
        trained: the stages, base first. Their parameters stay on the host, and are on the devices only while sampling.
        encoder: the text encoder that the stages were trained with; None if none has text.
        overrides: values for keys of ``config.sampling``: one value for all stages, or a list with one per stage.
        batch_size: max number of images sampled at once, rounded up to a multiple of the number of devices. Fewer
            requests give a smaller batch. The last of several batches is padded, so that all share one program.
        on_step: called after each denoising step.
        on_estimate: called with the current estimate of the images, at each call of the denoiser.
        classifier: additional guidance for the stages of the classifier's resolution.
        tokenizer: the tokenizer that the stages were trained with; None if none is told token ids.
    """

    trained: Sequence[TrainedStage]
    encoder: TextEncoder | None
    overrides: Mapping[str, Any] = field(default_factory=dict)
    batch_size: int = 8
    on_step: OnStep | None = None
    on_estimate: OnEstimate | None = None
    classifier: ClassifierGuidance | None = None
    tokenizer: CaptionTokenizer | None = None
    _programs: Programs = field(init=False, repr=False)
    _adjusted: dict[str, "Cascade"] = field(init=False, repr=False, default_factory=dict)
    _adjusted_to: str = field(init=False, repr=False, default="")

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise UserError(f"batch_size={self.batch_size} is below 1: set it to at least 1")
        self.mesh = make_mesh({"fsdp": jax.local_device_count()}, jax.local_devices())
        # A batch must divide evenly over the devices.
        parts = num_batch_shards(self.mesh)
        self.batch_size = -(-self.batch_size // parts) * parts
        self._inputs = RequestInputs(self.encoder, self.tokenizer)
        self._programs = Programs(MAX_TRAJECTORIES * len(self.trained))
        self.stages = stages_with(self.trained, self.overrides)
        if self.classifier is not None:
            check_classifier(self.classifier.resolution, self.stages)
            for number, stage in enumerate(self.stages):
                if stage.resolution == self.classifier.resolution:
                    settings = stage.settings._replace(classifier=self.classifier)
                    self.stages[number] = replace(stage, settings=settings)

    @property
    def names(self) -> list[str]:
        """The name of each stage: its folder."""
        return [one.name for one in self.trained]

    def count_steps(self, edit: Edit = NO_EDIT) -> int:
        """Returns the number of denoising steps for one batch, summed over all stages."""
        return sum(stage.draws * (len(trajectory_of(stage, edit.make_trajectory)) - 1) for stage in self.stages)

    def describe(self) -> dict[str, str]:
        """Describes the settings of each stage in words, for image metadata and reports."""
        return {
            f"stage_{number}": f"{to_path(name).name}: {stage.size}, {stage.settings.describe()}"
            for number, (name, stage) in enumerate(zip(self.names, self.stages, strict=True))
        }

    def adjusted(self, **overrides: Any) -> "Cascade":
        """Returns this cascade with other settings; caches it, so that repeated calls reuse its compiled programs.

        Args:
            **overrides: keys of ``config.sampling``, such as ``steps=50`` or ``guidance=[7.0, 3.0]``.

        Raises:
            UserError: a value is out of its range, or a list does not have one value per stage.
        """
        if not overrides:
            return self
        name = repr(sorted(overrides.items()))
        if name not in self._adjusted:
            if len(self._adjusted) >= MAX_ADJUSTED:
                self._adjusted.pop(next(iter(self._adjusted)))
            adjusted = replace(self, overrides={**self.overrides, **overrides})
            # Adjusted cascades share one cache of programs, so that its bound holds for all of them together.
            adjusted._programs, adjusted._adjusted_to = self._programs, self._adjusted_to + name
            self._adjusted[name] = adjusted
        return self._adjusted[name]

    def forget_programs(self) -> None:
        """Clears the compiled programs of all settings; the next sampling compiles again."""
        self._programs.clear()
        self._adjusted.clear()

    def sample(
        self,
        prompts: str | Sequence[str],
        *,
        samples_per_prompt: int = 1,
        seed: int = 0,
        negative_prompt: str | None = None,
        edit: Edit = NO_EDIT,
        progress: bool | None = None,
        **settings: Any,
    ) -> list[Image.Image]:
        """Samples images at the last stage's resolution, for notebooks and programs.

        Args:
            prompts: one prompt or several.
            samples_per_prompt: number of images per prompt; those of one prompt are consecutive in the result.
            seed: random seed, from 0 to 4294967295.
            negative_prompt: text that guidance uses instead of the null prompt.
            edit: an image to start from or to keep in part.
            progress: whether to show a progress bar; None for one in a terminal or notebook.
            **settings: keys of ``config.sampling``, as in ``adjusted``.

        Raises:
            UserError: there is no prompt; a setting is unknown (names the nearest), has no effect on any stage, is out
                of its range, or is a list without one value per stage.
        """
        own = ("prompts", "samples_per_prompt", "seed", "negative_prompt", "edit", "progress")
        refuse_sizes(settings)
        check_names(settings, [*SETTINGS, *own], "setting of sample()", ELSEWHERE)
        at_least_one("samples_per_prompt", samples_per_prompt)
        prompts = [prompts] if isinstance(prompts, str) else prompts
        cascade = self.adjusted(**settings)
        check_effects(cascade.trained, cascade.overrides, settings)
        check_makes_images(cascade.stages, cascade.names)
        requests = [ImageRequest(prompt, index) for prompt in prompts for index in range(samples_per_prompt)]
        with show_steps(cascade, len(requests), edit, progress):
            batches = cascade.draw(requests, seed, negative_prompt, edit)
            return [Image.fromarray(pixels) for stages in batches for pixels in to_pixels(stages[-1])]

    def draw(
        self,
        requests: ImageRequest | str | Sequence[ImageRequest | str],
        seed: int = 0,
        negative_prompt: str | None = None,
        edit: Edit = NO_EDIT,
    ) -> Iterator[list[HostImages]]:
        """Samples one image per request, and yields for each batch a list with the images of every stage.

        Args:
            requests: one per image; a string is a prompt.
            seed: random seed, from 0 to 4294967295.
            negative_prompt: text that guidance uses instead of the null prompt.
            edit: an image to start from or to keep in part.

        Raises:
            UserError: no images are requested, the seed is invalid, the resolutions of consecutive stages do not match,
                or a part of the edit or a negative prompt has no effect.
        """
        requests = [requests] if isinstance(requests, ImageRequest | str) else requests
        seed = check_seed(seed)
        check_images(self.stages, self.names, edit, negative_prompt)
        check_conditionings(self.stages, [one for one in requests if isinstance(one, ImageRequest)], edit)
        if not requests:
            raise UserError("there is nothing to sample: give at least one prompt, as in --prompt='red apple'")
        if edit.begins_with_image and any(
            isinstance(one, ImageRequest) and one.to_seed is not None for one in requests
        ):
            raise UserError("--to_seed can't be combined with --strength or --invert: leave one of them out")
        size = self.batch_size_for(len(requests))
        for start in range(0, len(requests), size):
            batch = [ImageRequest(one) if isinstance(one, str) else one for one in requests[start : start + size]]
            filled = batch + batch[-1:] * (size - len(batch))
            yield [images[: len(batch)] for images in self._sample_batch(filled, seed, negative_prompt, edit)]

    def draw_each_stage(self, requests: Sequence[ImageRequest], seed: int = 0) -> Iterator[HostImages]:
        """Samples one batch of at most ``batch_size`` requests, and yields what each stage makes, one by one."""
        check_conditionings(self.stages, requests)
        filled = list(requests) + [requests[-1]] * (self.batch_size_for(len(requests)) - len(requests))
        for made in self._sample_batch(filled, seed, None, NO_EDIT):
            yield made[: len(requests)]

    def batch_size_for(self, count: int) -> int:
        """Returns the batch size for ``count`` images: the smallest multiple of the devices, at most ``batch_size``."""
        parts = num_batch_shards(self.mesh)
        return min(self.batch_size, -(-count // parts) * parts)

    def _sample_batch(
        self, requests: Sequence[ImageRequest], seed: int, negative_prompt: str | None, edit: Edit
    ) -> Iterator[HostImages]:
        """Samples one batch, and yields each stage's images in turn."""
        placement = batch_placement(self.mesh, len(requests))
        images = edit.first_condition(self.stages[0].low_resolution, len(requests))
        images = None if images is None else with_channels(images, self.stages[0].shape[-1])
        for number, one in enumerate(self.trained):
            takes = [request.vector is None and request.conditioning in ("", "prior") for request in requests]
            inputs = hand_on(self.inputs(number, requests, seed, negative_prompt, edit), images, takes)
            with jax.set_mesh(self.mesh):
                params = jax.device_put(one.params, self._placements[number])
                inputs = jax.device_put(inputs, placement)
                if edit.invert is not None:
                    captions = [edit.invert] * len(requests)
                    told = self._inputs.read(one.stage, captions)
                    of_caption = {name: getattr(told, name) for name in ("text", "tokens", "text_vector")}
                    of_caption = jax.device_put(of_caption | {"label": labels_of(one.stage, captions)}, placement)
                    of_image = inputs._replace(conditions=inputs.conditions._replace(**of_caption))
                    inverted = self._run(number, edit, make_invert_stage, params, of_image)
                    inputs = inputs._replace(start=inverted)
                images = self._draw_best(number, edit, params, inputs)
            yield np.asarray(images)

    def _draw_best(self, number: int, edit: Edit, params: Any, inputs: Inputs) -> Samples:
        """Samples a stage. Of a prior's candidates it keeps those nearest to the captions, and returns vectors."""
        stage = self.stages[number]
        samples = self._run(number, edit, make_draw_stage, params, inputs)
        if not stage.makes_vectors:
            return samples
        drawn = [samples]
        for candidate in range(1, stage.draws):
            others = inputs._replace(keys=fold_into_each(inputs.keys, candidate))
            drawn.append(self._run(number, edit, make_draw_stage, params, others))
        vectors = jnp.stack([jnp.asarray(stage.space.from_samples(each)) for each in drawn])
        told = inputs.conditions.text_vector
        return vectors[0] if told is None else choose_nearest(vectors, told.values)

    def invert(self, request: ImageRequest, edit: Edit) -> Float[np.ndarray, "height width channels"]:
        """Returns the noise from which the first stage samples the image of an edit, under a request.

        Args:
            request: what the stage is told.
            edit: the image, and with ``invert`` its caption.

        Raises:
            UserError: the first stage can't sample such an edit, or its sampler is not DDIM without noise.
        """
        check_images(self.stages[:1], self.names[:1], edit)
        requests = [request] * self.batch_size_for(1)
        inputs = self.inputs(0, requests, edit=edit)
        with jax.set_mesh(self.mesh):
            params = jax.device_put(self.trained[0].params, self._placements[0])
            inputs = jax.device_put(inputs, batch_placement(self.mesh, len(requests)))
            return np.asarray(self._run(0, edit, make_invert_stage, params, inputs))[0]

    def inputs(
        self,
        number: int,
        requests: Sequence[ImageRequest],
        seed: int = 0,
        negative_prompt: str | None = None,
        edit: Edit = NO_EDIT,
    ) -> Inputs:
        """Returns a stage's inputs for one batch, except the images of the previous stage.

        Args:
            number: index of the stage, from 0.
            requests: the requests of the batch.
            seed: random seed of the noise.
            negative_prompt: text that guidance uses instead of the null prompt.
            edit: an image to start from or to keep in part.
        """
        trained, stage = self.trained[number], self.stages[number]
        return self._inputs.make(trained, stage, number, requests, seed, negative_prompt, edit)

    def _run(self, number: int, edit: Edit, make: Callable[..., Any], params: Any, inputs: Inputs) -> Samples:
        """Runs a stage on a batch. Compiles once per trajectory and batch size, and frees the compiler's memory."""

        def compile_first() -> Any:
            program = make(self.stages[number], self.on_step, self.on_estimate, edit.make_trajectory)
            what = " (inversion)" if make is make_invert_stage else ""
            with compiling(f"{to_path(self.names[number]).name}{what}, {self.stages[number].size}"):
                program.lower(params, inputs).compile()
            release_memory()
            return program

        key = (self._adjusted_to, number, make.__name__, edit.strength, edit.resample, len(inputs.keys))
        program = self._programs.find(key, compile_first)
        # on_step may have changed since the program was compiled.
        return (replace(program, on_step=self.on_step) if isinstance(program, StageSampler) else program)(
            params, inputs
        )

    @functools.cached_property
    def _placements(self) -> list[Any]:
        # Finding the names of a stage's axes traces its network, so the result is cached.
        return [
            place_state(jax.eval_shape(lambda one=one: one.params), parameter_axes(one.stage), self.mesh)
            for one in self.trained
        ]


@names_its_arguments
def load_cascade(
    stages: str | Path | Sequence[str | Path],
    overrides: Mapping[str, Any] | None = None,
    batch_size: int = 8,
    on_step: OnStep | None = None,
    dtype: str | None = None,
    classifier: ClassifierGuidance | None = None,
    text_encoder: str | Path | None = None,
    network: type[Network] | None = None,
) -> Cascade:
    """Loads a cascade from the folders of its stages, base first.

    Args:
        stages: the workdir or exported folder of each stage, a single such folder, or a name in
            ``pretrained.CASCADES``.
        overrides: values for keys of ``config.sampling``: one value for all stages, or a list with one per stage.
        batch_size: max number of images sampled at once.
        on_step: called after each denoising step.
        dtype: compute dtype of the networks, "float32" or "bfloat16"; None means that of each stage's config.
        classifier: additional guidance for the stages of its resolution, from ``classifier.load_guidance``.
        text_encoder: folder of the stages' T5, if it has moved since training.
        network: the class of the network of those stages whose configs name one of your own, as ``train`` took it.

    Raises:
        UserError: there are no stages, a folder has no usable stage, the resolutions of consecutive stages do not
            match, a setting is wrong, the text encoders differ, or the weights are missing or damaged. Everything
            except the weights is checked before any weights are read.
    """
    plan = plan_cascade(stages, overrides, dtype, text_encoder, network)
    if classifier is not None:
        check_classifier(classifier.resolution, plan.sampling)
    return load_planned(plan, batch_size, on_step, classifier)


def load_planned(
    plan: CascadePlan,
    batch_size: int = 8,
    on_step: OnStep | None = None,
    classifier: ClassifierGuidance | None = None,
) -> Cascade:
    """Loads the weights of a planned cascade, whose configs and settings are already checked.

    Args:
        plan: the cascade's configs and settings, from ``plan_cascade``.
        batch_size: max number of images sampled at once.
        on_step: called after each denoising step.
        classifier: additional guidance for the stages of its resolution.

    Raises:
        UserError: a folder has no usable weights, or a text encoder is missing or not the one used in training, or the
            stages' encoders differ.
    """
    at_least_one("batch_size", batch_size)
    encoder, tokenizer = load_shared_encoder(plan.stages), load_shared_tokenizer(plan.stages)
    trained = [load_params(one) for one in plan.stages]
    return Cascade(trained, encoder, plan.overrides, batch_size, on_step, classifier=classifier, tokenizer=tokenizer)
