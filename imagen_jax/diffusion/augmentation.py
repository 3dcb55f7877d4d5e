"""Noise conditioning augmentation (Imagen, section 2.4): the cascade's answer to its own mistakes.

A super-resolution stage is trained on perfect low-resolution images and used on imperfect, generated ones. So in
training each example's low-resolution image is noised by the same variance-preserving process, at a level of its own
drawn from U(0, 1), and the network is told the level. In sampling the level is ours to choose: 0 gave the paper its
best FID, 0.1 to 0.3 its best-looking samples.

The paper does not say whether the noise is added before or after the image is enlarged. We add it before, at the low
resolution, and the network enlarges; DeepFloyd IF adds it to the enlarged image (``enlarge_to_corners``).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from imagen_jax.array_types import Images, LowResolution, PerExample, RandomKey, SmallImages
from imagen_jax.diffusion.process import add_noise
from imagen_jax.diffusion.schedules import Schedule


def augment(image: Images, noise: Images, level: PerExample, schedule: Schedule) -> LowResolution:
    """Noises low-resolution images to ``level`` in [0, 1] (0 is clean), one level for each example."""
    log_snr = schedule(level)
    return LowResolution(add_noise(image, noise, log_snr), log_snr)


def augment_for_training(image: Images, key: RandomKey, schedule: Schedule) -> LowResolution:
    """Augments with a level drawn from U(0, 1) for each example, as in training."""
    level_key, noise_key = jax.random.split(key)
    level = jax.random.uniform(level_key, (image.shape[0],))
    return augment(image, jax.random.normal(noise_key, image.shape), level, schedule)


Enlarge = Callable[[SmallImages, int], Images]
"""``enlarge(image, resolution)``: what is done to the low-resolution image before noise is added to it."""


def leave_small(image: SmallImages, resolution: int) -> SmallImages:
    """Leaves the image as it is: the network enlarges it."""
    return image


def enlarge_to_corners(image: SmallImages, resolution: int) -> Images:
    """Enlarges bilinearly so that the centres of the corner pixels stay in the corners ("align corners")."""

    def weights(size: int) -> jax.Array:
        # Row i holds the shares of the small pixels in the large pixel i.
        place = jnp.linspace(0.0, size - 1.0, resolution)
        return jnp.maximum(0.0, 1.0 - jnp.abs(place[:, None] - jnp.arange(size)[None, :]))

    rows, columns = weights(image.shape[1]), weights(image.shape[2])
    # Exact products, for an image is not a feature map.
    return jnp.einsum("Hh,Ww,bhwc->bHWc", rows, columns, image, precision="highest")


ENLARGEMENTS: dict[str, Enlarge] = {"none": leave_small, "corners": enlarge_to_corners}
"""What ``stage.enlarge_before_noise`` may be."""
