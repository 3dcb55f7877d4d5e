"""Noise conditioning augmentation (Imagen, section 2.4): makes super-resolution robust to imperfect inputs.

A super-resolution stage trains on perfect low-resolution images, but in sampling it receives imperfect, generated ones.
So training noises each example's low-resolution image with a variance-preserving process. The noise level is sampled
from U(0, 1) for each example, and the network receives it as an input. In sampling the user chooses the level: 0 gave
the paper its best FID, 0.1 to 0.3 its best-looking samples.

The paper does not say whether the noise is added before or after the image is enlarged. We add it before, at the low
resolution, and the network enlarges the noisy image. DeepFloyd IF adds it to the enlarged image
(``enlarge_to_corners``).
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
    """Augments with a level sampled from U(0, 1) for each example, as in training."""
    level_key, noise_key = jax.random.split(key)
    level = jax.random.uniform(level_key, (image.shape[0],))
    return augment(image, jax.random.normal(noise_key, image.shape), level, schedule)


Enlarge = Callable[[SmallImages, int], Images]
"""``enlarge(image, resolution)``: transforms the low-resolution image before noise is added to it."""


def leave_small(image: SmallImages, resolution: int) -> SmallImages:
    """Returns the image unchanged: the network enlarges it."""
    return image


def enlarge_to_corners(image: SmallImages, resolution: int) -> Images:
    """Enlarges bilinearly to ``resolution``; the centres of the corner pixels stay in the corners ("align corners")."""

    def weights(size: int) -> jax.Array:
        # Row i holds the weights of the small pixels in the large pixel i.
        position = jnp.linspace(0.0, size - 1.0, resolution)
        return jnp.maximum(0.0, 1.0 - jnp.abs(position[:, None] - jnp.arange(size)[None, :]))

    rows, columns = weights(image.shape[1]), weights(image.shape[2])
    # Pixels need full float32 precision; the default precision of products may be lower.
    return jnp.einsum("Hh,Ww,bhwc->bHWc", rows, columns, image, precision="highest")


ENLARGEMENTS: dict[str, Enlarge] = {"none": leave_small, "corners": enlarge_to_corners}
"""Allowed values of ``stage.enlarge_before_noise``."""
