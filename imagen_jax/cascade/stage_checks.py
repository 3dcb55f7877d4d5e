"""Reads those values of a stage's config that several keys decide together, and checks that they fit each other.

config.stage, config.embedding -> shape of a sample, space of its vectors, corruption of its low-resolution images
"""

from collections.abc import Callable
from typing import Any

from imagen_jax.array_types import PerExample
from imagen_jax.clip.embedding_space import EmbeddingSpace
from imagen_jax.config.sections import EmbeddingConfig, StageConfig
from imagen_jax.diffusion.augmentation import CORRUPTIONS
from imagen_jax.diffusion.schedules import Schedule, number_of_step
from imagen_jax.errors import UserError, lookup

Measure = Callable[[PerExample], PerExample]


def itself(log_snr: PerExample) -> PerExample:
    """Returns the log-SNR: the noise conditioning of most networks."""
    return log_snr


NOISE_CONDITIONING: dict[str, Callable[[Schedule], Measure]] = {
    "log_snr": lambda schedule: itself,
    "timestep": number_of_step,
}
"""Noise conditioning of a network: the log-SNR, or the number of the discrete step (of 1000) with that log-SNR."""


def shape_of(stage: StageConfig) -> tuple[int, ...]:
    """Returns the shape of one sample of a stage.

    Raises:
        UserError: it makes neither images nor vectors, or both; or vectors of what only images have.
    """
    if (stage.resolution > 0) == (stage.vector > 0) or min(stage.resolution, stage.vector) < 0:
        raise UserError(
            f"config.stage.resolution={stage.resolution} and vector={stage.vector}: set the resolution of a stage that "
            "makes images, or the number of channels of one that makes vectors, and leave the other at 0"
        )
    if not stage.vector:
        return stage.resolution, stage.resolution, stage.channels
    for name in ("low_resolution", "crop", "image_vector", "schedule_shifted_from"):
        if getattr(stage, name):
            raise UserError(f"config.stage.{name} has no meaning for a stage that makes vectors: leave it out")
    return (stage.vector,)


def space_of(embedding: EmbeddingConfig) -> EmbeddingSpace:
    """Returns the space that the section ``embedding`` describes.

    Raises:
        UserError: its numbers do not belong to its form.
    """
    return EmbeddingSpace(embedding.form, embedding.deviation, embedding.mean, embedding.deviations)


def check_text_transformer(network: Any, token_length: int) -> None:
    """Checks that the network has a text transformer exactly if the stage has token ids for it.

    Args:
        network: the network.
        token_length: number of tokens to which captions are padded; 0 for a stage that is told no token ids.

    Raises:
        UserError: one lacks the other, or its context is too short.
    """
    if not hasattr(network, "text_transformer"):
        return
    sizes = network.text_transformer
    if sizes and not token_length:
        raise UserError(
            "config.network.text_transformer reads token ids, and the network is told none: set "
            "--config.stage.tokens=True, or leave the text transformer out"
        )
    if token_length and not sizes:
        raise UserError(
            "config.stage.tokens tells the network token ids, and it has no text transformer to read them: set "
            "config.network.text_transformer, or --config.stage.tokens=False"
        )
    if sizes and sizes.get("context", token_length) < token_length:
        raise UserError(
            f"captions of {token_length} tokens exceed config.network.text_transformer.context="
            f"{sizes['context']}: set --config.text.length to it or less"
        )


def check_corruption(config: StageConfig) -> str:
    """Returns ``stage.corruption``, if it fits the other keys.

    Raises:
        UserError: it is unknown, or without effect on a base; or a key contradicts it.
    """
    corruption = lookup(CORRUPTIONS, config.corruption, "stage.corruption")
    if not 0 <= config.blur_probability <= 1:
        raise UserError(f"config.stage.blur_probability is {config.blur_probability}: set it to a number from 0 to 1")
    if not corruption.is_noise:
        if config.low_resolution is None:
            raise UserError(
                f"config.stage.corruption={config.corruption!r} corrupts low-resolution images, which a base has not: "
                "set config.stage.low_resolution, or leave the corruption at 'noise'"
            )
        if config.enlarge_before_noise != "none":
            raise UserError(
                f"config.stage.enlarge_before_noise={config.enlarge_before_noise!r} is for images with noise: set it "
                f"to 'none' with config.stage.corruption={config.corruption!r}"
            )
    return config.corruption
