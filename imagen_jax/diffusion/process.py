r"""The forward process, and the quantities that a network may predict.

    z_t = α x + σ ε,   α² = sigmoid(λ),   σ² = sigmoid(-λ)                                      (1)
    v   = α ε - σ x                                          (Salimans & Ho 2022, appendix D)   (2)

Given z_t, each of x, ε and v determines the others:

    x = (z - σ ε) / α = α z - σ v,        ε = (z - α x) / σ = σ z + α v                         (3)

Flow matching (Liu et al. 2023, "Rectified flow", equation 1; Lipman et al. 2023) predicts the velocity of a straight
line, y_s = (1 - s) x + s ε. With z = y / sqrt((1-s)² + s²) it is the process (1), α : σ = (1 - s) : s, and

    u = ε - x,        x = (z - σ u) / (α + σ)                                                   (4)

so flow matching is a schedule (``schedules.flow``) and a prediction, and every sampler serves it.

In this package a *denoiser* always returns x. Guidance can be applied to x instead of ε: for weights that sum to one,
w·ε₁ + (1-w)·ε₂ and w·x₁ + (1-w)·x₂ are equivalent, because (3) is affine in ε for a given z.

A sample x may be an image, a vector, or any array with a batch axis first. Every function of two samples raises
``ValueError`` if their shapes differ: NumPy's broadcasting would compute something else without a word.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Shaped

from imagen_jax.array_types import PerExample, Samples

ValueRange = tuple[float, float]
"""The lowest and the highest value of clean samples."""

RANGE_OF_IMAGES: ValueRange = (-1.0, 1.0)


def check_same_shape(**samples: Shaped[Array, "..."]) -> None:
    """Checks that samples, named for the error message, have the same shape.

    Raises:
        ValueError: two shapes differ, or there is no axis after the batch axis; names both.
    """
    (first, shape), *others = ((name, jnp.shape(array)) for name, array in samples.items())
    if len(shape) < 2:
        raise ValueError(
            f"{first} has the shape {shape}: samples have a batch axis and at least one more, as in (batch, d)"
        )
    for name, other in others:
        if other != shape:
            raise ValueError(f"{first} has the shape {shape}, but {name} has {other}: give both the same shape")


def expand(numbers: Shaped[Array, " batch"], like: Samples) -> Shaped[Array, "batch _ ..."]:
    """Reshapes one number for each example to ``(batch, 1, …)``, so that it multiplies samples like ``like``.

    Raises:
        ValueError: there is not one number for each example.
    """
    if jnp.shape(numbers) != like.shape[:1]:
        raise ValueError(
            f"{like.shape[0]} samples of the shape {like.shape[1:]} need {like.shape[0]} numbers, one each, and not "
            f"numbers of the shape {jnp.shape(numbers)}"
        )
    return numbers.reshape(numbers.shape + (1,) * (like.ndim - 1))


def clip_to_range(samples: Samples, value_range: ValueRange | None) -> Samples:
    """Clips clean samples to the values that they may have; None for no limits."""
    return samples if value_range is None else jnp.clip(samples, *value_range)


def signal_and_noise_scale(log_snr: PerExample, like: Samples) -> tuple[Samples, Samples]:
    """Returns α and σ of equation (1), each shaped ``(batch, 1, …)`` to multiply samples like ``like``."""
    log_snr = expand(log_snr, like)
    return jnp.sqrt(jax.nn.sigmoid(log_snr)), jnp.sqrt(jax.nn.sigmoid(-log_snr))


def add_noise(clean: Samples, noise: Samples, log_snr: PerExample) -> Samples:
    """Noises clean samples to the given log-SNR. Equation (1)."""
    check_same_shape(clean=clean, noise=noise)
    alpha, sigma = signal_and_noise_scale(log_snr, clean)
    return alpha * clean + sigma * noise


def noise_from_clean(clean: Samples, noisy: Samples, log_snr: PerExample) -> Samples:
    """Returns the noise ε in ``noisy``, given the clean samples x. Equation (3)."""
    check_same_shape(clean=clean, noisy=noisy)
    alpha, sigma = signal_and_noise_scale(log_snr, noisy)
    return (noisy - alpha * clean) / sigma


def clean_from_noise(noise: Samples, noisy: Samples, log_snr: PerExample) -> Samples:
    """Returns the clean samples x in ``noisy``, given the noise ε. Equation (3)."""
    check_same_shape(noise=noise, noisy=noisy)
    alpha, sigma = signal_and_noise_scale(log_snr, noisy)
    return (noisy - sigma * noise) / alpha


def velocity(clean: Samples, noise: Samples, log_snr: PerExample) -> Samples:
    """Returns the velocity v. Equation (2)."""
    check_same_shape(clean=clean, noise=noise)
    alpha, sigma = signal_and_noise_scale(log_snr, clean)
    return alpha * noise - sigma * clean


def clean_from_velocity(v: Samples, noisy: Samples, log_snr: PerExample) -> Samples:
    """Returns the clean samples x in ``noisy``, given the velocity v. Equation (3)."""
    check_same_shape(v=v, noisy=noisy)
    alpha, sigma = signal_and_noise_scale(log_snr, noisy)
    return alpha * noisy - sigma * v


def flow_velocity(clean: Samples, noise: Samples, log_snr: PerExample) -> Samples:
    """Returns the velocity u of the straight line from clean samples to noise. Equation (4)."""
    check_same_shape(clean=clean, noise=noise)
    return noise - clean


def clean_from_flow(u: Samples, noisy: Samples, log_snr: PerExample) -> Samples:
    """Returns the clean samples x in ``noisy``, given the velocity u. Equation (4)."""
    check_same_shape(u=u, noisy=noisy)
    alpha, sigma = signal_and_noise_scale(log_snr, noisy)
    return (noisy - sigma * u) / (alpha + sigma)


def clean_itself(output: Samples, noisy: Samples, log_snr: PerExample) -> Samples:
    """Returns the output of a network that predicts the clean samples x."""
    check_same_shape(output=output, noisy=noisy)
    return output


class Prediction(NamedTuple):
    """A quantity that a network may be trained to output.

    Attributes:
        target: ``(clean, noise, log_snr) -> the correct output``.
        to_clean: ``(output, noisy, log_snr) -> clean``.
        clean_error_weight: ``log_snr -> (batch,)``, the ratio of the output's squared error to that of the clean sample
            it implies. Loss weights are defined for the clean sample and divided by this ratio (``loss.py``).
    """

    target: Callable[[Samples, Samples, PerExample], Samples]
    to_clean: Callable[[Samples, Samples, PerExample], Samples]
    clean_error_weight: Callable[[PerExample], PerExample]


PREDICTIONS: dict[str, Prediction] = {
    "eps": Prediction(
        target=lambda clean, noise, log_snr: noise,
        to_clean=clean_from_noise,
        clean_error_weight=jnp.exp,
    ),
    "x0": Prediction(
        target=lambda clean, noise, log_snr: clean,
        to_clean=clean_itself,
        clean_error_weight=jnp.ones_like,
    ),
    "v": Prediction(
        target=velocity,
        to_clean=clean_from_velocity,
        clean_error_weight=lambda log_snr: 1.0 + jnp.exp(log_snr),
    ),
    "flow": Prediction(
        target=flow_velocity,
        to_clean=clean_from_flow,
        clean_error_weight=lambda log_snr: jnp.square(1.0 + jnp.exp(log_snr / 2)),
    ),
}
