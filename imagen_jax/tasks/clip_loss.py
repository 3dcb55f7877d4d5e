"""The loss of a CLIP, from its config: pairs -> embeddings -> contrastive loss of the whole batch."""

from typing import Any

import jax

from imagen_jax.array_types import RandomKey, Scalar
from imagen_jax.clip.contrastive import LOSSES, Embeddings
from imagen_jax.clip.description import normalise_images
from imagen_jax.clip.feature_head import FeatureHead
from imagen_jax.clip.pair import Pair, Pairs, Params, temperature_of
from imagen_jax.config.clip_sections import ClipConfig
from imagen_jax.diffusion.loss import sample_quantiles
from imagen_jax.diffusion.process import add_noise
from imagen_jax.diffusion.schedules import SCHEDULES
from imagen_jax.errors import lookup

EQUAL_CAPTIONS = {"negatives": False, "ignored": True}
"""Values of ``clip.equal_captions``, and whether equal captions are left out of the negatives."""


def prepare_images(pair: Pair, clip: ClipConfig, images: Any) -> Any:
    """Returns what the image tower takes: normalised images, or features unchanged."""
    return images if isinstance(pair.image, FeatureHead) else normalise_images(images, clip.mean, clip.deviation)


def embed_pairs(pair: Pair, clip: ClipConfig, params: Params, batch: Pairs, key: RandomKey | None = None) -> Embeddings:
    """Returns the embeddings of a batch. With a key the towers train, with dropout if they have any.

    With a noise schedule the images are noisy, at times that are spread evenly over the batch. Without a key they are
    clean.
    """
    images, log_snr = batch.images, None
    if clip.noise_schedule and key is not None:
        time_key, noise_key, key = jax.random.split(key, 3)
        log_snr = SCHEDULES[clip.noise_schedule](sample_quantiles(time_key, len(images), stratified=True))
        images = add_noise(images, jax.random.normal(noise_key, images.shape), log_snr)
    return pair.embed(params, prepare_images(pair, clip, images), batch.captions, key, log_snr)


def loss_of_embeddings(
    clip: ClipConfig, params: Params, embeddings: Embeddings, batch: Pairs
) -> tuple[Scalar, dict[str, Scalar]]:
    """Returns the loss of a batch, and its metrics."""
    ignored = lookup(EQUAL_CAPTIONS, clip.equal_captions, "clip.equal_captions")
    contrast = LOSSES[clip.loss](embeddings, temperature_of(params), batch.groups if ignored else None)
    return contrast.loss, contrast.metrics
