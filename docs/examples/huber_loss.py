"""A loss of your own: the pseudo-Huber distance instead of the squared error, which weighs outliers less.

    d(a, b) = sqrt(|a - b|² + c²) - c                            (Song & Dhariwal 2023, section 3.3)

It is given to ``train`` and replaces one function of the package. It draws uniform times, and leaves out what else
``cascade.stage_loss`` offers: weightings, other noise levels and self-conditioning.
"""

import jax
import jax.numpy as jnp

from imagen_jax.cascade.stage import apply_network, with_augmented
from imagen_jax.diffusion.augmentation import augment_for_training
from imagen_jax.diffusion.conditions import drop, in_float32
from imagen_jax.diffusion.process import add_noise

C = 0.03
"""c of the distance between two values."""


def make_huber_losses(stage, training):
    """Makes ``losses(params, batch, key)``: the loss and the log-SNR of each example."""
    rates = {"text": training.caption_dropout, "label": training.caption_dropout, **training.drop}

    def losses(params, batch, key):
        drop_key, small_key, dropout_key, time_key, noise_key = jax.random.split(key, 5)
        conditions = drop(in_float32(batch.conditions), drop_key, rates, training.drop_together)
        conditions = with_augmented(
            stage,
            conditions,
            lambda small: augment_for_training(small, small_key, stage.augmentation_schedule),
            batch.clean.shape[1],
        )
        log_snr = stage.schedule(jax.random.uniform(time_key, batch.clean.shape[:1]))
        noise = jax.random.normal(noise_key, batch.clean.shape)
        noisy = add_noise(batch.clean, noise, log_snr)
        output = apply_network(stage, params, conditions, dropout_key)(noisy, log_snr)
        difference = output - stage.prediction.target(batch.clean, noise, log_snr)
        return jnp.mean(jnp.sqrt(jnp.square(difference) + C**2) - C, axis=tuple(range(1, difference.ndim))), log_snr

    return losses
