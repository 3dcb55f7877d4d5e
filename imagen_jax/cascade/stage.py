"""One diffusion model: what it is told, what it makes, and its network; for training and for sampling.

    config -> Stage (network, shape, conditions, schedule, prediction, sampling settings)
    conditions, parameters -> apply_network -> the loss of a batch (``stage_loss``), for training
                                            -> make_denoiser, for sampling (``stage_sampler``)

Lower-level modules take functions as arguments; this module makes those functions from the config, and an unknown key
is an error that names the key.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from imagen_jax.array_types import (
    Denoiser,
    Estimate,
    EstimateWithVariance,
    LowResolution,
    PerExample,
    RandomKey,
    Samples,
    SmallImages,
    Text,
)
from imagen_jax.cascade.experiment import ModelConfig, read_model
from imagen_jax.cascade.network import build_network, twice
from imagen_jax.cascade.sampling_settings import SamplingSettings, make_settings
from imagen_jax.cascade.stage_checks import (
    NOISE_CONDITIONING,
    Measure,
    check_corruption,
    check_text_transformer,
    itself,
    shape_of,
    space_of,
)
from imagen_jax.clip.embedding_space import EmbeddingSpace
from imagen_jax.config.reading import Given
from imagen_jax.data.classes import CLASSES, Classes
from imagen_jax.diffusion.augmentation import CORRUPTIONS, ENLARGEMENTS, Enlarge, leave_small
from imagen_jax.diffusion.conditions import Conditions, Labels, TokenSequence, Vectors, in_float32
from imagen_jax.diffusion.process import PREDICTIONS, RANGE_OF_IMAGES, Prediction, ValueRange
from imagen_jax.diffusion.schedules import SCHEDULES, Schedule, cosine, shifted
from imagen_jax.diffusion.self_conditioning import self_condition
from imagen_jax.diffusion.variance_loss import split_variance
from imagen_jax.errors import UserError, lookup
from imagen_jax.models import Network
from imagen_jax.sharding.axes import axes_of, remove_logical_axes

Params = Any


class Batch(NamedTuple):
    """A training batch of a stage.

    Attributes:
        clean: clean samples, ``(batch, *shape)``; or crops of images.
        conditions: what the network is told, as stored: text in bfloat16, low-resolution images clean.
    """

    clean: Samples
    conditions: Conditions


CHANNELS = 3
"""The number of channels of images, unless a config says otherwise."""


@dataclass(frozen=True)
class Stage:
    """One diffusion model of the cascade.

    Attributes:
        network: the network, a Linen module.
        shape: shape of one sample: height, width and channels of an image, or ``(width,)`` of a vector.
        settings: its sampling settings.
        low_resolution: height and width of the image that it enlarges; None for a base.
        text_length: number of tokens to which captions are padded; 0 for a stage without text.
        text_width: width of the text encoder's embeddings.
        token_length: number of tokens to which captions as token ids are padded; 0 for a stage without them.
        text_vector: width of the vector of each caption; 0 for none.
        image_vector: width of the vector of each image; 0 for none.
        classes: the classes of its images; None for a stage that is told none.
        schedule: time to log-SNR.
        augmentation_schedule: augmentation level to log-SNR.
        prediction: the kind of the network's output, such as the noise.
        measure: function from a log-SNR to the network's noise conditioning: itself, or a step number of ``schedule``.
        augmentation_measure: the same function for the low-resolution image and ``augmentation_schedule``.
        corruption: how training corrupts the low-resolution image, a key of ``diffusion.augmentation.CORRUPTIONS``.
        blur_probability: fraction of the low-resolution images that the corruption "blur" blurs.
        enlarge: function that enlarges the low-resolution image before noise is added, or leaves it small.
        self_conditioned: whether the network also takes its own estimate, from a first pass.
        value_range: the lowest and the highest value of clean samples; None for no limits.
        space: how image embeddings become the vectors that the stage is told, and the samples that it makes.
    """

    network: Network
    shape: tuple[int, ...]
    settings: SamplingSettings
    low_resolution: int | None = None
    text_length: int = 0
    text_width: int = 0
    token_length: int = 0
    text_vector: int = 0
    image_vector: int = 0
    classes: Classes | None = None
    schedule: Schedule = cosine
    augmentation_schedule: Schedule = cosine
    prediction: Prediction = PREDICTIONS["eps"]
    measure: Measure = itself
    augmentation_measure: Measure = itself
    corruption: str = "noise"
    blur_probability: float = 0.5
    enlarge: Enlarge = leave_small
    self_conditioned: bool = False
    value_range: ValueRange | None = RANGE_OF_IMAGES
    space: EmbeddingSpace = field(default_factory=EmbeddingSpace)

    @property
    def resolution(self) -> int:
        """Height and width of its images; the length of its vectors."""
        return self.shape[0]

    @property
    def size(self) -> str:
        """The size of its samples in words, such as "64 px"."""
        return f"vectors of {self.shape[0]}" if self.makes_vectors else f"{self.resolution} px"

    @property
    def makes_vectors(self) -> bool:
        """Whether its samples are vectors, as those of a prior are."""
        return len(self.shape) == 1

    @property
    def draws(self) -> int:
        """The number of samples that are drawn for each request, of which one stays."""
        return self.settings.candidates if self.makes_vectors else 1

    @property
    def reads_captions(self) -> bool:
        """Whether it is told captions: as a text encoder's embeddings, as token ids, or both."""
        return self.text_length > 0 or self.token_length > 0

    @property
    def takes_noise_level(self) -> bool:
        """Whether its low-resolution images have noise of a level that the network is told."""
        return self.low_resolution is not None and CORRUPTIONS[self.corruption].is_noise

    @property
    def learns_variance(self) -> bool:
        """Whether the network outputs the variance, in as many channels again after those of the sample."""
        return twice(self.network, self.shape[-1])


def build_stage(config: Given | ModelConfig, network: type[Network] | None = None) -> Stage:
    """Builds the stage that a config describes; ``config.sections`` lists the keys.

    Args:
        config: the config.
        network: the class of its network, if it is one of the user's own.

    Raises:
        UserError: a key or the name of a part is unknown, or a key is missing or has a value of another type.
    """
    config = read_model(config)
    shape = shape_of(config.stage)
    schedule = lookup(SCHEDULES, config.stage.schedule, "stage.schedule")
    if config.stage.schedule_shifted_from:
        schedule = shifted(schedule, config.stage.resolution, config.stage.schedule_shifted_from)
    augmentation_schedule = lookup(SCHEDULES, config.stage.augmentation_schedule, "stage.augmentation_schedule")
    make_measure = lookup(NOISE_CONDITIONING, config.stage.noise_conditioning, "stage.noise_conditioning")
    stage, sampling = config.stage, config.sampling.to_dict()
    classes = lookup(CLASSES, stage.classes, "stage.classes") if stage.classes else None
    told = {"classes": len(classes.names)} if classes else {}
    if stage.channels != CHANNELS and not stage.vector and "out_channels" not in config.network.fields:
        told["out_channels"] = stage.channels
    built = Stage(
        network=build_network(config.network, network, stage.noise_conditioning, **told),
        shape=shape,
        settings=make_settings(sampling),
        low_resolution=stage.low_resolution,
        text_length=config.text.length if stage.text else 0,
        text_width=config.text.width,
        token_length=config.text.length if stage.tokens else 0,
        text_vector=stage.text_vector,
        image_vector=stage.image_vector,
        classes=classes,
        schedule=schedule,
        augmentation_schedule=augmentation_schedule,
        prediction=lookup(PREDICTIONS, config.stage.prediction, "stage.prediction"),
        measure=make_measure(schedule),
        augmentation_measure=make_measure(augmentation_schedule),
        corruption=check_corruption(stage),
        blur_probability=stage.blur_probability,
        enlarge=lookup(ENLARGEMENTS, config.stage.enlarge_before_noise, "stage.enlarge_before_noise"),
        self_conditioned=config.stage.self_conditioned,
        value_range=RANGE_OF_IMAGES if len(shape) == 3 else None,
        space=space_of(config.embedding),
    )
    check_text_transformer(built.network, built.token_length)
    return with_settings(built, sampling)


def with_settings(stage: Stage, sampling: Mapping[str, Any]) -> Stage:
    """Returns the stage with the sampling settings that ``sampling``, as ``config.sampling``, describes.

    Raises:
        UserError: as ``make_settings``, or the network was made for another number of steps.
    """
    settings = make_settings(sampling)
    only = getattr(stage.network, "sampling_steps", settings.steps)
    if settings.steps != only:
        raise UserError(
            f"the network {type(stage.network).__name__} was trained to sample in {only} steps, not in "
            f"{settings.steps}: set --steps={only} for its stage"
        )
    if stage.learns_variance and settings.rule.reads_variance:
        settings = settings._replace(rule=settings.rule._replace(name="ancestral, learned variance"))
    return replace(stage, settings=settings)


def abstract_batch(stage: Stage, batch_size: int, crop: int | None = None) -> Batch:
    """Returns the shapes of a training batch.

    Args:
        stage: the stage.
        batch_size: number of examples.
        crop: height and width of training crops; None if the stage trains on whole images.
    """

    def shape(*sizes: int, dtype: Any = jnp.float32) -> Any:
        return jax.ShapeDtypeStruct((batch_size, *sizes), dtype)

    def vectors(width: int) -> Vectors | None:
        return Vectors(shape(width), shape(dtype=jnp.bool_)) if width else None

    def text() -> Text:
        embeddings = shape(stage.text_length, stage.text_width, dtype=jnp.bfloat16)
        return Text(embeddings, shape(stage.text_length, dtype=jnp.bool_))

    def tokens(length: int) -> TokenSequence:
        return TokenSequence(shape(length, dtype=jnp.int32), shape(length, dtype=jnp.bool_))

    clean = stage.shape if crop is None else (crop, crop, stage.shape[-1])
    small = None
    if stage.low_resolution is not None:
        side = clean[0] * stage.low_resolution // stage.resolution
        small = LowResolution(shape(side, side, stage.shape[-1]))
    conditions = Conditions(
        text=text() if stage.text_length else None,
        tokens=tokens(stage.token_length) if stage.token_length else None,
        text_vector=vectors(stage.text_vector),
        image_vector=vectors(stage.image_vector),
        label=Labels(shape(dtype=jnp.int32), shape(dtype=jnp.bool_)) if stage.classes else None,
        low_resolution=small,
    )
    return Batch(shape(*clean), conditions)


class FirstInputs(NamedTuple):
    """What a network is called with when its parameters are made, or the shapes of it; see ``models.Network``."""

    noisy: Samples
    noise_conditioning: PerExample
    conditions: Conditions
    estimate: Samples | None


def first_inputs(stage: Stage) -> FirstInputs:
    """Returns the shapes of one example's inputs."""
    batch = abstract_batch(stage, batch_size=1)
    log_snr: Any = jax.ShapeDtypeStruct((1,), jnp.float32)

    def augmented(small: SmallImages) -> LowResolution:
        return LowResolution(small, jnp.zeros(small.shape[:1]))

    conditions = jax.eval_shape(lambda clean: with_augmented(stage, in_float32(clean), augmented), batch.conditions)
    return FirstInputs(batch.clean, log_snr, conditions, batch.clean if stage.self_conditioned else None)


def with_augmented(
    stage: Stage,
    conditions: Conditions,
    augment: Callable[[SmallImages], LowResolution],
    resolution: int | None = None,
) -> Conditions:
    """Returns the conditions with their clean low-resolution images enlarged, if the stage does so, and augmented.

    A stage whose network is told no noise level gets the images as they are.

    Args:
        stage: the stage.
        conditions: the conditions; without low-resolution images they are returned as they are.
        augment: adds noise to the images, see ``diffusion.augmentation``.
        resolution: height and width of the training crops; None for whole images.
    """
    if conditions.low_resolution is None or not stage.takes_noise_level:
        return conditions
    enlarged = stage.enlarge(conditions.low_resolution.image, resolution or stage.resolution)
    return conditions._replace(low_resolution=augment(enlarged))


def make_labelled_params(network: Network, shapes: FirstInputs, key: RandomKey) -> tuple[Samples, Any]:
    """Returns the output, and random parameters; a kernel whose layer names its axes is a ``WithLogicalAxes``."""
    inputs = jax.tree.map(lambda array: jnp.zeros(array.shape, array.dtype), shapes)
    module: Any = network
    output, variables = module.init_with_output(key, *inputs[:3], estimate=inputs.estimate)
    return output, variables["params"]


@functools.lru_cache
def abstract_labelled_params(network: Network, shapes: FirstInputs) -> Any:
    """Returns the shapes of ``make_labelled_params``. Cached, because tracing a large network takes seconds.

    Raises:
        UserError: the network's output has not the shape of its input.
    """
    output, params = jax.eval_shape(lambda: make_labelled_params(network, shapes, jax.random.key(0)))
    *outer, channels = shapes.noisy.shape
    # Only a network with this field can say that it also predicts a variance.
    if output.shape != (*outer, channels) and (output.shape != (*outer, 2 * channels) or not twice(network, channels)):
        raise UserError(
            f"the network {type(network).__name__} makes {output.shape} of samples of {shapes.noisy.shape}: let it "
            "return the shape of its input, or have a field out_channels of twice the channels if it also predicts a "
            "variance"
        )
    return params


def initial_params(stage: Stage, key: RandomKey) -> Params:
    """Returns random initial parameters of the stage's network."""
    return remove_logical_axes(make_labelled_params(stage.network, first_inputs(stage), key)[1])


def abstract_params(stage: Stage) -> Params:
    """Returns the shapes of the network's parameters, without computing any."""
    return remove_logical_axes(abstract_labelled_params(stage.network, first_inputs(stage)))


def parameter_axes(stage: Stage) -> Any:
    """Returns the logical axis names of each parameter (``sharding.axes``); None for a vector, which has none."""
    return axes_of(abstract_labelled_params(stage.network, first_inputs(stage)))


def apply_network(
    stage: Stage, params: Params, conditions: Conditions, dropout_key: RandomKey | None = None
) -> Callable[..., Samples]:
    """Binds a network to its parameters and conditions; a dropout key means training.

    The noise conditioning of the network is ``stage.measure(log_snr)``.

    Returns ``predict(noisy, log_snr, estimate=None) -> output``.
    """
    module: Any = stage.network
    low_resolution = conditions.low_resolution
    if low_resolution is not None and (low_resolution.log_snr is None) == stage.takes_noise_level:
        raise ValueError(
            "the low-resolution image has no noise level: augment it first, at level 0 to leave it clean"
            if stage.takes_noise_level
            else f"the low-resolution image has a noise level, and stage.corruption={stage.corruption!r} has none"
        )
    if low_resolution is not None and low_resolution.log_snr is not None:
        measured = stage.augmentation_measure(low_resolution.log_snr)
        conditions = conditions._replace(low_resolution=low_resolution._replace(log_snr=measured))

    def predict(noisy: Samples, log_snr: PerExample, estimate: Samples | None = None) -> Samples:
        return module.apply(
            {"params": params},
            noisy,
            stage.measure(log_snr),
            conditions,
            estimate=estimate,
            train=dropout_key is not None,
            rngs=None if dropout_key is None else {"dropout": dropout_key},
        )

    return predict


def make_denoiser(stage: Stage, params: Params, conditions: Conditions) -> Denoiser:
    """Makes the denoiser of a stage for conditions whose low-resolution images are augmented."""
    predict = apply_network(stage, params, conditions)
    if stage.self_conditioned:
        predict = self_condition(predict, stage.prediction, stage.value_range)

    def denoise(noisy: Samples, log_snr: PerExample) -> Estimate:
        output = predict(noisy, log_snr)
        if not stage.learns_variance:
            return stage.prediction.to_clean(output, noisy, log_snr)
        predicted, gamma = split_variance(output)
        return EstimateWithVariance(stage.prediction.to_clean(predicted, noisy, log_snr), gamma)

    return denoise
