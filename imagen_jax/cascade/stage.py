"""Builds one stage of the cascade from its config, out of a network, a diffusion process and text.

    config -> Stage (network, schedule, prediction) -> loss of a batch, for training
                                                    -> denoiser of a condition, for sampling

Lower-level modules take functions as arguments; this module makes those functions from the config, and an unknown key
is an error that names the key.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from imagen_jax.array_types import (
    DTYPES,
    Denoiser,
    Estimate,
    Images,
    ImageWithVariance,
    LowResolution,
    PerExample,
    RandomKey,
    Scalar,
    SmallImages,
    Text,
)
from imagen_jax.cascade.experiment import ModelConfig, read_model
from imagen_jax.config.reading import Given
from imagen_jax.config.sections import NetworkConfig, TextConfig, TrainingConfig
from imagen_jax.diffusion.augmentation import ENLARGEMENTS, Enlarge, augment_for_training
from imagen_jax.diffusion.loss import Weighting, denoising_losses, min_snr_weighting, uniform_weighting
from imagen_jax.diffusion.null_text import drop_text
from imagen_jax.diffusion.process import PREDICTIONS, Prediction
from imagen_jax.diffusion.schedules import SCHEDULES, Schedule, number_of_step
from imagen_jax.diffusion.self_conditioning import self_condition, self_condition_for_training
from imagen_jax.encoders.encoder import TextEncoder, load_text_encoder
from imagen_jax.errors import UserError, lookup, nearest_name
from imagen_jax.models import NETWORKS, Network
from imagen_jax.models.efficient_unet import EfficientUNet
from imagen_jax.models.layers import NewFeatureMap
from imagen_jax.sharding.axes import axes_of, remove_logical_axes

Params = Any

Measure = Callable[[PerExample], PerExample]

NOISE_CONDITIONING: dict[str, Callable[[Schedule], Measure]] = {
    "log_snr": lambda schedule: lambda log_snr: log_snr,
    "timestep": number_of_step,
}
"""Noise conditioning of a network: the log-SNR, or the number of the discrete step (of 1000) with that log-SNR."""

WEIGHTINGS: dict[str, Callable[[float], Weighting]] = {
    "uniform": lambda gamma: uniform_weighting,
    "min_snr": min_snr_weighting,
}


class Batch(NamedTuple):
    """A training batch of a stage.

    Attributes:
        image: clean images at the stage's resolution, or crops of them, ``(batch, height, width, 3)``.
        text: the encoded captions, in bfloat16 as stored.
        low_resolution: the same images clean at the low resolution, for a super-resolution stage; None for a base.
    """

    image: Images
    text: Text
    low_resolution: SmallImages | None = None


Losses = Callable[[Params, Batch, RandomKey], tuple[PerExample, PerExample]]
"""``losses(params, batch, key) -> (loss, log-SNR)`` of each example of a training batch."""


@dataclass(frozen=True)
class Stage:
    """One diffusion model of the cascade.

    Attributes:
        network: the Linen module.
        resolution: height and width of its images.
        low_resolution: height and width of its condition; None for a base.
        schedule: time to log-SNR.
        augmentation_schedule: augmentation level to log-SNR.
        prediction: the kind of the network's output, such as the noise.
        measure: function from a log-SNR to the network's noise conditioning: itself, or a step number of ``schedule``.
        augmentation_measure: the same function for the low-resolution image and ``augmentation_schedule``.
        enlarge: function that enlarges the low-resolution image before noise is added, or leaves it small.
        self_conditioned: whether the network also takes its own estimate, from a first pass.
        text_length: number of tokens to which captions are padded.
        text_width: width of the text encoder's embeddings.
    """

    network: Network
    resolution: int
    low_resolution: int | None
    schedule: Schedule
    augmentation_schedule: Schedule
    prediction: Prediction
    measure: Measure
    augmentation_measure: Measure
    enlarge: Enlarge
    self_conditioned: bool
    text_length: int
    text_width: int

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Shape of one image: height, width, 3."""
        return (self.resolution, self.resolution, 3)

    @property
    def learns_variance(self) -> bool:
        """Whether the network outputs the variance, in as many channels again after those of the image."""
        return self.network.out_channels == 2 * self.image_shape[-1]


def build(make: Callable[..., Any], fields: Mapping[str, Any], where: str, **extra: Any) -> Any:
    """Calls ``make(**fields, **extra)``.

    Raises:
        UserError: ``make`` has no parameter for a key of ``fields``; names the key and the nearest parameter.
    """
    known = getattr(make, "__dataclass_fields__", None) or make.__annotations__
    known = [name for name in known if name not in ("parent", "name", "return", *extra)]
    for key in fields:
        if key not in known:
            raise UserError(f"unknown config key {where}.{key}{nearest_name(key, known)}")
    return make(**fields, **extra)


def build_network(config: NetworkConfig) -> Network:
    """Builds the network ``config.name``."""
    make = lookup(NETWORKS, config.name, "network")
    dtype = lookup(DTYPES, config.dtype, "network.dtype")
    network = build(make, config.fields, "network", dtype=dtype)
    if isinstance(network, EfficientUNet):
        check_levels(network)
    return network


def check_levels(network: EfficientUNet) -> None:
    """Checks that each list of a network has one entry per level.

    Raises:
        UserError: one has more or fewer; names the list.
    """
    levels = len(network.channels)
    for name in ("blocks", "strides", "self_attention", "cross_attention"):
        entries = len(getattr(network, name))
        if entries != levels:
            raise UserError(
                f"--config.network.{name} has {entries} entries for the {levels} levels of config.network.channels: "
                "give one per level"
            )


def build_stage(config: Given | ModelConfig) -> Stage:
    """Builds the stage that a config describes; ``config.sections`` lists the keys.

    Raises:
        UserError: a key or the name of a part is unknown, or a key is missing or has a value of another type.
    """
    config = read_model(config)
    schedule = lookup(SCHEDULES, config.stage.schedule, "stage.schedule")
    augmentation_schedule = lookup(SCHEDULES, config.stage.augmentation_schedule, "stage.augmentation_schedule")
    make_measure = lookup(NOISE_CONDITIONING, config.stage.noise_conditioning, "stage.noise_conditioning")
    return Stage(
        network=build_network(config.network),
        resolution=config.stage.resolution,
        low_resolution=config.stage.low_resolution,
        schedule=schedule,
        augmentation_schedule=augmentation_schedule,
        prediction=lookup(PREDICTIONS, config.stage.prediction, "stage.prediction"),
        measure=make_measure(schedule),
        augmentation_measure=make_measure(augmentation_schedule),
        enlarge=lookup(ENLARGEMENTS, config.stage.enlarge_before_noise, "stage.enlarge_before_noise"),
        self_conditioned=config.stage.self_conditioned,
        text_length=config.text.length,
        text_width=config.text.width,
    )


def load_encoder(text: TextConfig) -> TextEncoder:
    """Loads the text encoder ``text.encoder``; its weights are read when the first caption is encoded.

    Raises:
        UserError: there is no such encoder, a file of it is missing, or its width is not ``text.width``.
    """
    encoder = load_text_encoder(text.encoder, **text.options)
    if encoder.width != text.width:
        raise UserError(
            f"the text encoder {encoder.name} makes embeddings of width {encoder.width}, and config.text.width is "
            f"{text.width}: set --config.text.width={encoder.width}, or choose another encoder"
        )
    return encoder


def check_encoder(encoder: TextEncoder, trained_with: str | None, stage: str) -> None:
    """Checks that a text encoder is the one that a stage was trained with.

    Args:
        encoder: the text encoder to check.
        trained_with: name of the encoder used in training; None if it was not recorded, then any encoder passes.
        stage: name of the stage in error messages.

    Raises:
        UserError: the encoder has another name.
    """
    if trained_with not in (None, encoder.name):
        raise UserError(
            f"{stage} was trained with the text encoder {trained_with}, not with {encoder.name}: give the folder "
            "with the same weights and tokenizer"
        )


def abstract_batch(stage: Stage, batch_size: int, crop: int | None = None) -> Batch:
    """Returns the shapes of a training batch.

    Args:
        stage: the stage.
        batch_size: number of examples.
        crop: height and width of training crops; None if the stage trains on whole images.
    """
    size = crop or stage.resolution

    def shape(*sizes: int, dtype: Any = jnp.float32) -> Any:
        return jax.ShapeDtypeStruct((batch_size, *sizes), dtype)

    def images(resolution: int) -> Any:
        return shape(resolution, resolution, 3)

    text = Text(
        shape(stage.text_length, stage.text_width, dtype=jnp.bfloat16), shape(stage.text_length, dtype=jnp.bool_)
    )
    low = None if stage.low_resolution is None else images(size * stage.low_resolution // stage.resolution)
    return Batch(images(size), text, low)


def in_float32(text: Text) -> Text:
    """Casts the embeddings to float32, the input dtype of networks. They cast to their own compute dtype."""
    return text._replace(embeddings=text.embeddings.astype(jnp.float32))


class FirstInputs(NamedTuple):
    """What a network is called with when its parameters are made, or the shapes of it; see ``Network``."""

    noisy: Images
    noise_conditioning: PerExample
    text: Text
    low_resolution: LowResolution | None
    estimate: Images | None


def first_inputs(stage: Stage) -> FirstInputs:
    """Returns the shapes of one example's inputs."""
    batch = abstract_batch(stage, batch_size=1)
    log_snr: Any = jax.ShapeDtypeStruct((1,), jnp.float32)
    low_resolution = None
    if batch.low_resolution is not None:
        enlarged: Any = jax.eval_shape(lambda small: stage.enlarge(small, stage.resolution), batch.low_resolution)
        low_resolution = LowResolution(enlarged, log_snr)
    estimate = batch.image if stage.self_conditioned else None
    return FirstInputs(batch.image, log_snr, batch.text, low_resolution, estimate)


def make_labelled_params(network: Network, shapes: FirstInputs, key: RandomKey) -> Any:
    """Returns random initial parameters; a kernel whose layer names its axes is a ``WithLogicalAxes``."""
    inputs = jax.tree.map(lambda array: jnp.zeros(array.shape, array.dtype), shapes)
    return network.init(key, *inputs)["params"]


@functools.lru_cache
def abstract_labelled_params(network: Network, shapes: FirstInputs) -> Any:
    """Returns the shapes of ``make_labelled_params``. Cached, because tracing a large network takes seconds."""
    return jax.eval_shape(lambda: make_labelled_params(network, shapes, jax.random.key(0)))


def initial_params(stage: Stage, key: RandomKey) -> Params:
    """Returns random initial parameters of the stage's network."""
    return remove_logical_axes(make_labelled_params(stage.network, first_inputs(stage), key))


def abstract_params(stage: Stage) -> Params:
    """Returns the shapes of the network's parameters, without computing any."""
    return remove_logical_axes(abstract_labelled_params(stage.network, first_inputs(stage)))


def parameter_axes(stage: Stage) -> Any:
    """Returns the logical axis names of each parameter (``sharding.axes``); None for a vector, which has none."""
    return axes_of(abstract_labelled_params(stage.network, first_inputs(stage)))


def apply_network(
    stage: Stage,
    params: Params,
    text: Text,
    low_resolution: LowResolution | None,
    dropout_key: RandomKey | None = None,
) -> Callable[..., Images]:
    """Binds a network to its parameters and condition; a dropout key means training.

    The noise conditioning of the network is ``stage.measure(log_snr)``.

    Returns ``predict(noisy, log_snr, estimate=None) -> output``.
    """
    apply: Any = stage.network.apply
    if low_resolution is not None:
        low_resolution = low_resolution._replace(log_snr=stage.augmentation_measure(low_resolution.log_snr))

    def predict(noisy: Images, log_snr: PerExample, estimate: Images | None = None) -> NewFeatureMap:
        return apply(
            {"params": params},
            noisy,
            stage.measure(log_snr),
            text,
            low_resolution,
            estimate,
            train=dropout_key is not None,
            rngs=None if dropout_key is None else {"dropout": dropout_key},
        )

    return predict


def make_losses(stage: Stage, training: TrainingConfig) -> Losses:
    """Makes a stage's ``Losses`` from ``config.training``.

    Raises:
        UserError: the weighting is unknown, or the network learns the variance, for which no loss is implemented.
    """
    if stage.learns_variance:
        raise UserError(
            "a network that learns its variance can be imported and sampled, but not trained: set "
            "--config.network.out_channels=3"
        )
    weighting = lookup(WEIGHTINGS, training.weighting, "training.weighting")(training.min_snr_gamma)

    def losses(params: Params, batch: Batch, key: RandomKey) -> tuple[PerExample, PerExample]:
        text_key, augmentation_key, dropout_key, estimate_key, noise_key = jax.random.split(key, 5)
        text = drop_text(in_float32(batch.text), text_key, training.caption_dropout)
        low_resolution = None
        if batch.low_resolution is not None:
            small = stage.enlarge(batch.low_resolution, batch.image.shape[1])
            low_resolution = augment_for_training(small, augmentation_key, stage.augmentation_schedule)
        predict = apply_network(stage, params, text, low_resolution, dropout_key)
        if stage.self_conditioned:
            predict = self_condition_for_training(predict, stage.prediction, estimate_key)
        return denoising_losses(
            predict,
            batch.image,
            noise_key,
            schedule=stage.schedule,
            prediction=stage.prediction,
            weighting=weighting,
            stratified_times=training.stratified_times,
            time_exponent=training.time_exponent,
        )

    return losses


def make_loss(stage: Stage, training: TrainingConfig) -> Callable[[Params, Batch, RandomKey], Scalar]:
    """Makes a stage's ``loss(params, batch, key)``, the mean of ``make_losses``, which raises the same errors."""
    losses = make_losses(stage, training)
    return lambda params, batch, key: jnp.mean(losses(params, batch, key)[0])


def make_denoiser(stage: Stage, params: Params, text: Text, low_resolution: LowResolution | None) -> Denoiser:
    """Makes the denoiser of a stage for a text and a low-resolution condition."""
    predict = apply_network(stage, params, text, low_resolution)
    if stage.self_conditioned:
        predict = self_condition(predict, stage.prediction)

    def denoise(noisy: Images, log_snr: PerExample) -> Estimate:
        output = predict(noisy, log_snr)
        if not stage.learns_variance:
            return stage.prediction.to_image(output, noisy, log_snr)
        said, variance = jnp.split(output, 2, axis=-1)
        # The network's range [-1, 1], from the min to the max variance, becomes [0, 1].
        return ImageWithVariance(stage.prediction.to_image(said, noisy, log_snr), (variance + 1.0) / 2.0)

    return denoise
