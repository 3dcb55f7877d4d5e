"""Selects feature networks by name, and extracts features of many images in batches of one size.

uint8 images -> network.prepare, one by one -> batches, sharded over the devices of this host -> features, in order
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32
from tqdm import tqdm

from imagen_jax.encoders.efficientnet_lite0 import load_efficientnet_lite0
from imagen_jax.encoders.feature_network import FeatureNetwork, Features
from imagen_jax.errors import UserError
from imagen_jax.sharding.mesh import make_mesh
from imagen_jax.sharding.placement import batch_placement, num_batch_shards, replicated

PIXEL_RESOLUTION = 32
BATCH = 32


class FeatureSet(NamedTuple):
    """Features of images, in order, on the host.

    Attributes:
        pooled: the features by which images are compared, ``(images, features)`` float32.
        logits: class scores before the softmax, ``(images, classes)`` float32; None if the network has none.
    """

    pooled: Float32[np.ndarray, "images features"]
    logits: Float32[np.ndarray, "images classes"] | None


ExtractBatch = Callable[[Sequence[np.ndarray]], FeatureSet]
"""Maps a sequence of prepared images, at most ``BATCH``, to their features."""


def load_pixels() -> FeatureNetwork:
    """Returns a network whose features are the pixels themselves, resized with antialiasing to 32 px.

    White is exactly zero, so that two mostly white images do not count as similar because of their white pixels.
    """

    def extract(weights: None, images: jax.Array) -> Features:
        count = images.shape[0]
        darkness = images.astype(jnp.float32) / 127.5 - 2.0
        small = jax.image.resize(darkness, (count, PIXEL_RESOLUTION, PIXEL_RESOLUTION, 3), "bilinear")
        return Features(small.reshape(count, -1))

    return FeatureNetwork(
        "pixels", "pixels at 32 px", PIXEL_RESOLUTION**2 * 3, "bilinear, antialiased", "", extract, distance=""
    )


FEATURE_NETWORKS: dict[str, Callable[[], FeatureNetwork]] = {
    "efficientnet_lite0": load_efficientnet_lite0,
    "pixels": load_pixels,
}


def compile_extraction(network: FeatureNetwork) -> ExtractBatch:
    """Compiles ``network.extract`` for batches of one size, sharded over the devices of this process."""
    mesh = make_mesh({"fsdp": jax.local_device_count()}, jax.local_devices())
    size = -(-BATCH // num_batch_shards(mesh)) * num_batch_shards(mesh)
    weights = jax.device_put(network.weights, replicated(mesh))
    compiled = jax.jit(network.extract)

    def extract(prepared: Sequence[np.ndarray]) -> FeatureSet:
        images = stack_alike(network, prepared)
        filled = np.concatenate([images, np.repeat(images[-1:], size - len(images), axis=0)])
        with jax.set_mesh(mesh):
            made = compiled(weights, jax.device_put(filled, batch_placement(mesh, size)))
        logits = None if made.logits is None else np.asarray(made.logits, np.float32)[: len(images)]
        return FeatureSet(np.asarray(made.pooled, np.float32)[: len(images)], logits)

    return extract


def stack_alike(network: FeatureNetwork, prepared: Sequence[np.ndarray]) -> np.ndarray:
    """Stacks prepared images into one array.

    Raises:
        UserError: the images differ in size, because this network does not resize them on the host.
    """
    sizes = {image.shape for image in prepared}
    if len(sizes) > 1:
        shown = " and ".join(f"{width}×{height}" for height, width, *_ in sorted(sizes)[:2])
        raise UserError(
            f"the images have different sizes, {shown} pixels: {network.name} with {network.resize} resizing needs "
            "images of one size; resize them first, or set --resize=clean"
        )
    return np.stack(prepared)


def extract_features(
    network: FeatureNetwork, images: Iterable[np.ndarray], total: int | None = None, show: bool = True
) -> FeatureSet:
    """Extracts the features of an iterable of images, with a progress bar.

    Args:
        network: the network, for example from ``FEATURE_NETWORKS``.
        images: uint8 images ``(height, width, 3)``. All have one size, unless ``network.prepare`` resizes them.
        total: the number of images, for the progress bar.
        show: whether to show the progress bar.

    Raises:
        UserError: there are no images, or they differ in size.
    """
    extract = compile_extraction(network)
    parts: list[FeatureSet] = []
    waiting: list[np.ndarray] = []
    progress: Any = tqdm(images, "Extracting features", total, unit="image", dynamic_ncols=True, disable=not show)
    for image in progress:
        waiting.append(network.prepare(image))
        if len(waiting) == BATCH:
            parts.append(extract(waiting))
            waiting = []
    if waiting:
        parts.append(extract(waiting))
    if not parts:
        raise UserError("there are no images to extract features from: check the folder or the split")
    return join_features(parts)


def join_features(parts: Sequence[FeatureSet]) -> FeatureSet:
    """Concatenates parts."""
    logits = [part.logits for part in parts if part.logits is not None]
    return FeatureSet(np.concatenate([part.pooled for part in parts]), np.concatenate(logits) if logits else None)
