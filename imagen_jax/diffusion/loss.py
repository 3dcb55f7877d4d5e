r"""The training objective: the squared error of the network's output at a random time.

    L = E_{t ~ U(0,1), ε ~ N(0,I)}  w(λ_t) · mean (output(z_t, λ_t) - target(x, ε, λ_t))²        (1)

Imagen predicts ε and weights all times equally, w = 1 ("uniform"). Min-SNR (Hang et al. 2023, equation 6) limits the
weight of easy, nearly clean inputs. As a weight of the clean image's error it is w_x = min(SNR, γ). As a weight of the
error of the network's output it is w_x divided by ``Prediction.image_error_weight``: min(SNR, γ)/SNR for ε.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from imagen_jax.array_types import Images, PerExample, RandomKey, Scalar
from imagen_jax.diffusion.process import Prediction, add_noise
from imagen_jax.diffusion.schedules import Schedule

Predict = Callable[[Images, PerExample], Images]
"""``predict(noisy, log_snr) -> output``: the network with all its other inputs bound."""

Weighting = Callable[[PerExample, Prediction], PerExample]
"""``weighting(log_snr, prediction) -> (batch,)``: the w of equation (1)."""

LOG_SNR_EDGES = (-6.0, -4.0, -2.0, 0.0, 2.0, 4.0, 6.0)
"""Borders of the ranges of log-SNR in which ``sum_by_noise_level`` sums losses; the outer ranges are open.

With times from the cosine schedule, 28% of the examples are in each of the two middle ranges and 3% in each outer one.
"""


class LossByNoiseLevel(NamedTuple):
    """The losses of a batch, summed over the examples of each range of log-SNR, from noisy to clean.

    Attributes:
        total: sum of the weighted losses of the examples in each range; 0 for a range without examples.
        examples: number of examples in each range.
    """

    total: Float[Array, " levels"]
    examples: Float[Array, " levels"]


def uniform_weighting(log_snr: PerExample, prediction: Prediction) -> PerExample:
    """Weights all times equally, in the space of the network's output, as Imagen does."""
    return jnp.ones_like(log_snr)


def min_snr_weighting(gamma: float) -> Weighting:
    """Makes the min-SNR-γ weighting (Hang et al. 2023); γ = 5 is their recommendation."""

    def weigh(log_snr: PerExample, prediction: Prediction) -> PerExample:
        return jnp.minimum(jnp.exp(log_snr), gamma) / prediction.image_error_weight(log_snr)

    return weigh


def sample_times(key: RandomKey, batch: int, stratified: bool = False, exponent: float = 1.0) -> PerExample:
    """Samples a time in [0, 1) for each example: ``u^(1/exponent)``, with u uniform.

    Args:
        key: random key.
        batch: number of examples.
        stratified: whether to spread one random offset evenly over the batch. This lowers the variance of the loss
            (Kingma et al. 2021, appendix I.1); each single u is still uniform. Imagen samples independently (False).
        exponent: k of the density k·t^(k-1). Imagen samples uniformly (1). Larger values train more on nearly pure
            noise, where only the text determines the image: 10% of all times lie above 0.9 at k = 1, and 27% at k = 3.
    """
    if stratified:
        uniform = (jax.random.uniform(key, ()) + jnp.arange(batch) / batch) % 1.0
    else:
        uniform = jax.random.uniform(key, (batch,))
    return uniform ** (1.0 / exponent)


def denoising_losses(
    predict: Predict,
    image: Images,
    key: RandomKey,
    *,
    schedule: Schedule,
    prediction: Prediction,
    weighting: Weighting = uniform_weighting,
    stratified_times: bool = False,
    time_exponent: float = 1.0,
) -> tuple[PerExample, PerExample]:
    """Returns the weighted loss of each example of a batch, and its log-SNR. Equation (1) before the mean.

    Args:
        predict: the network, see ``Predict``.
        image: clean images in [-1, 1].
        key: random key, split into one for the times and one for the noise.
        schedule: function from time to log-SNR.
        prediction: the kind of output that ``predict`` returns.
        weighting: weight of each time, see ``Weighting``.
        stratified_times: argument ``stratified`` of ``sample_times``.
        time_exponent: argument ``exponent`` of ``sample_times``.
    """
    time_key, noise_key = jax.random.split(key)
    log_snr = schedule(sample_times(time_key, image.shape[0], stratified_times, time_exponent))
    noise = jax.random.normal(noise_key, image.shape)
    output = predict(add_noise(image, noise, log_snr), log_snr)
    error = jnp.mean(jnp.square(output - prediction.target(image, noise, log_snr)), axis=(1, 2, 3))
    return weighting(log_snr, prediction) * error, log_snr


def denoising_loss(predict: Predict, image: Images, key: RandomKey, **settings: Any) -> Scalar:
    """Returns the mean loss of one batch. Equation (1). The arguments are those of ``denoising_losses``."""
    losses, _ = denoising_losses(predict, image, key, **settings)
    return jnp.mean(losses)


def sum_by_noise_level(losses: PerExample, log_snr: PerExample) -> LossByNoiseLevel:
    """Sums the losses of a batch by noise level, in the ranges between ``LOG_SNR_EDGES``.

    Args:
        losses: loss of each example.
        log_snr: log-SNR of each example. One that equals a border belongs to the range above it.
    """
    level = (log_snr[:, None] >= jnp.asarray(LOG_SNR_EDGES)[None, :]).sum(1)
    is_in = level[:, None] == jnp.arange(len(LOG_SNR_EDGES) + 1)[None, :]
    # Selected and not multiplied, so that a loss that is not finite stays in its own range.
    return LossByNoiseLevel(jnp.where(is_in, losses[:, None], 0.0).sum(0), is_in.astype(losses.dtype).sum(0))
