"""Noise conditioning augmentation (Imagen, section 2.4): makes super-resolution robust to imperfect inputs.

A super-resolution stage trains on perfect low-resolution images, but in sampling it receives imperfect, generated ones.
So training noises each example's low-resolution image with a variance-preserving process. The noise level is sampled
from U(0, 1) for each example, and the network receives it as an input. In sampling the user chooses the level: 0 gave
the paper its best FID, 0.1 to 0.3 its best-looking samples.

The paper does not say whether the noise is added before or after the image is enlarged. We add it before, at the low
resolution, and the network enlarges the noisy image. DeepFloyd IF adds it to the enlarged image
(``enlarge_to_corners``).

The upsamplers of unCLIP (Ramesh et al. 2022, section 2.3 and appendix C) train on corrupted images in other ways, with
no level to be told: the first blurs them (``blur``), "following Saharia et al. 2021", and the second degrades them as
BSRGAN does (``data.degradations``, on the host). In sampling they receive the image as it is.
"""

from collections.abc import Callable
from typing import NamedTuple

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


BLUR_DEVIATION = 0.6
"""Standard deviation of ``blur``, in pixels (Ramesh et al. 2022, appendix C)."""


def blur(image: SmallImages) -> SmallImages:
    """Blurs by a Gaussian kernel of 3×3 pixels; pixels beyond the edges equal those at the edges."""
    weights = jnp.exp(-jnp.square(jnp.arange(-1.0, 2.0)) / (2 * BLUR_DEVIATION**2))
    weights = weights / weights.sum()
    for axis in (1, 2):
        size = image.shape[axis]
        padded = jnp.pad(image, [(1, 1) if one == axis else (0, 0) for one in range(4)], mode="edge")
        shifted = (jax.lax.slice_in_dim(padded, start, start + size, axis=axis) for start in range(3))
        image = sum((weight * part for weight, part in zip(weights, shifted, strict=True)), jnp.zeros_like(image))
    return image


def blur_for_training(image: SmallImages, key: RandomKey, probability: float) -> LowResolution:
    """Blurs each image with a probability in [0, 1]. The network is told no level."""
    is_blurred = jax.random.bernoulli(key, probability, image.shape[:1])
    return LowResolution(jnp.where(is_blurred[:, None, None, None], blur(image), image))


class Corruption(NamedTuple):
    """How training corrupts low-resolution images.

    Attributes:
        is_noise: whether it is noise of a level that the network is told, here and in sampling.
        corrupt: ``(image, key, augmentation schedule, blur probability) -> LowResolution``, on the device.
    """

    is_noise: bool
    corrupt: Callable[[SmallImages, RandomKey, Schedule, float], LowResolution]


CORRUPTIONS: dict[str, Corruption] = {
    "noise": Corruption(True, lambda image, key, schedule, probability: augment_for_training(image, key, schedule)),
    "blur": Corruption(False, lambda image, key, schedule, probability: blur_for_training(image, key, probability)),
    "bsr": Corruption(False, lambda image, key, schedule, probability: LowResolution(image)),
}
"""Allowed values of ``stage.corruption``. The images of "bsr" are degraded on the host (``data.degradations``)."""


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
