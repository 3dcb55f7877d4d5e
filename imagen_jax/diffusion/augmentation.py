"""Noise conditioning augmentation (Imagen, section 2.4): the cascade's answer to its own mistakes.

A super-resolution stage is trained on perfect low-resolution images and used on imperfect, generated ones. So in
training each example's low-resolution image is noised by the same variance-preserving process, at a level of its own
drawn from U(0, 1), and the network is told the level. In sampling the level is ours to choose: 0 gave the paper its
best FID, 0.1 to 0.3 its best-looking samples.

The noise is added at the low resolution, before the network enlarges the image.
"""

import jax

from imagen_jax.array_types import Images, LowResolution, PerExample, RandomKey
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
