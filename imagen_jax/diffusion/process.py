r"""The forward process, and the three quantities that a network may predict.

    z_t = α x + σ ε,   α² = sigmoid(λ),   σ² = sigmoid(-λ)                                      (1)
    v   = α ε - σ x                                          (Salimans & Ho 2022, appendix D)   (2)

Given z_t, each of x, ε and v determines the others:

    x = (z - σ ε) / α = α z - σ v,        ε = (z - α x) / σ = σ z + α v                         (3)

In this package a *denoiser* always returns x. Guidance can be applied to x instead of ε: for weights that sum to one,
w·ε₁ + (1-w)·ε₂ and w·x₁ + (1-w)·x₂ are equivalent, because (3) is affine in ε for a given z.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from imagen_jax.array_types import Images, PerExample


def signal_and_noise_scale(log_snr: PerExample) -> tuple[Images, Images]:
    """Returns α and σ of equation (1), each shaped ``(batch, 1, 1, 1)`` to multiply images with."""
    log_snr = log_snr[:, None, None, None]
    return jnp.sqrt(jax.nn.sigmoid(log_snr)), jnp.sqrt(jax.nn.sigmoid(-log_snr))


def add_noise(image: Images, noise: Images, log_snr: PerExample) -> Images:
    """Noises clean images to the given log-SNR. Equation (1)."""
    alpha, sigma = signal_and_noise_scale(log_snr)
    return alpha * image + sigma * noise


def noise_from_image(image: Images, noisy: Images, log_snr: PerExample) -> Images:
    """Returns the noise ε in ``noisy``, given the clean ``image``. Equation (3)."""
    alpha, sigma = signal_and_noise_scale(log_snr)
    return (noisy - alpha * image) / sigma


def image_from_noise(noise: Images, noisy: Images, log_snr: PerExample) -> Images:
    """Returns the clean image x in ``noisy``, given the noise ε. Equation (3)."""
    alpha, sigma = signal_and_noise_scale(log_snr)
    return (noisy - sigma * noise) / alpha


def velocity(image: Images, noise: Images, log_snr: PerExample) -> Images:
    """Returns the velocity v. Equation (2)."""
    alpha, sigma = signal_and_noise_scale(log_snr)
    return alpha * noise - sigma * image


def image_from_velocity(v: Images, noisy: Images, log_snr: PerExample) -> Images:
    """Returns the clean image x in ``noisy``, given the velocity v. Equation (3)."""
    alpha, sigma = signal_and_noise_scale(log_snr)
    return alpha * noisy - sigma * v


class Prediction(NamedTuple):
    """A quantity that a network may be trained to output.

    Attributes:
        target: ``(image, noise, log_snr) -> the correct output``.
        to_image: ``(output, noisy, log_snr) -> clean image``.
        image_error_weight: ``log_snr -> (batch,)``, the ratio of the output's squared error to that of the clean image
            it implies. Loss weights are defined for the image and divided by this ratio (``loss.py``).
    """

    target: Callable[[Images, Images, PerExample], Images]
    to_image: Callable[[Images, Images, PerExample], Images]
    image_error_weight: Callable[[PerExample], PerExample]


PREDICTIONS: dict[str, Prediction] = {
    "eps": Prediction(
        target=lambda image, noise, log_snr: noise,
        to_image=image_from_noise,
        image_error_weight=jnp.exp,
    ),
    "x0": Prediction(
        target=lambda image, noise, log_snr: image,
        to_image=lambda output, noisy, log_snr: output,
        image_error_weight=jnp.ones_like,
    ),
    "v": Prediction(
        target=velocity,
        to_image=image_from_velocity,
        image_error_weight=lambda log_snr: 1.0 + jnp.exp(log_snr),
    ),
}
