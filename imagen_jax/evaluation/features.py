"""Feature networks by name, and features of many images in batches of one size."""

from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from tqdm import tqdm

from imagen_jax.array_types import Images
from imagen_jax.errors import UserError
from imagen_jax.evaluation.efficientnet_lite0 import load_efficientnet_lite0

Extract = Callable[[Images], Float[Array, "batch features"]]

PIXEL_RESOLUTION = 32
BATCH = 32


def load_pixels() -> Extract:
    """The pixels themselves, antialiased to 32 px.

    White is exactly zero, so that two mostly white pictures are not alike for it.
    """

    def extract(images: Images) -> Float[Array, "batch features"]:
        shape = (images.shape[0], PIXEL_RESOLUTION, PIXEL_RESOLUTION, 3)
        return jax.image.resize(images - 1.0, shape, "bilinear").reshape(images.shape[0], -1)

    return extract


FEATURE_NETWORKS: dict[str, Callable[[], Extract]] = {
    "efficientnet_lite0": load_efficientnet_lite0,
    "pixels": load_pixels,
}


def extract_features(
    extract: Extract, images: Iterable[Float[np.ndarray, "height width 3"]], total: int | None = None
) -> Float[np.ndarray, "images features"]:
    """Features of images that come one by one, computed in batches of one compiled size, with a progress bar.

    Args:
        extract: from ``FEATURE_NETWORKS``.
        images: each in [-1, 1], all of one size.
        total: how many, for the bar.

    Raises:
        UserError: there are none.
    """
    compiled = jax.jit(extract)
    features: list[np.ndarray] = []
    waiting: list[np.ndarray] = []

    def flush() -> None:
        filled = waiting + waiting[-1:] * (BATCH - len(waiting))
        features.append(np.asarray(compiled(jnp.asarray(np.stack(filled))))[: len(waiting)])
        waiting.clear()

    for image in tqdm(images, desc="Extracting features", total=total, unit="image", dynamic_ncols=True):
        waiting.append(image)
        if len(waiting) == BATCH:
            flush()
    if waiting:
        flush()
    if not features:
        raise UserError("there are no images to extract features of: check the folder or the split")
    return np.concatenate(features)
