r"""The training objective: the squared error of the network's output at a random noise level.

    L = E_{λ ~ p, ε ~ N(0,I)}  w(λ) · mean (output(z_λ, λ) - target(x, ε, λ))²                   (1)

Imagen predicts ε and weights all times equally, w = 1 ("uniform"). ``noise_levels`` has the densities p. The other
weightings are defined for the error of the clean sample, w_x, or of the noise, w_ε. ``Prediction.clean_error_weight``
converts them to the error of the network's output.

    min-SNR    w_x = min(SNR, γ), which limits the weight of easy, nearly clean inputs (Hang et al. 2023, eq. 6)
    EDM        w_x = (σ̃² + σ_d²) / (σ̃ σ_d)², σ̃² = 1/SNR, σ_d = 0.5 (Karras et al. 2022, table 1)
    sigmoid    w_ε = sigmoid(b - λ) / p(λ), the evidence bound weighed by a sigmoid, whatever p is
               (Kingma & Gao 2023, section 5; b = 2)
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from imagen_jax.array_types import PerExample, RandomKey, Samples, Scalar
from imagen_jax.diffusion.noise_levels import LevelOf, density_of
from imagen_jax.diffusion.process import Prediction, add_noise, check_same_shape

Predict = Callable[[Samples, PerExample], Samples]
"""``predict(noisy, log_snr) -> output``: the network with all its other inputs bound."""

Weighting = Callable[[PerExample, Prediction, Callable[[], PerExample]], PerExample]
"""``weighting(log_snr, prediction, density) -> (batch,)``: the w of equation (1); ``density()`` is p(λ)."""

SIGMA_OF_DATA = 0.5
"""Standard deviation of the clean samples in the EDM weighting."""

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


def uniform_weighting(log_snr: PerExample, prediction: Prediction, density: Callable[[], PerExample]) -> PerExample:
    """Weights all times equally, in the space of the network's output, as Imagen does."""
    return jnp.ones_like(log_snr)


def min_snr_weighting(gamma: float) -> Weighting:
    """Makes the min-SNR-γ weighting (Hang et al. 2023); γ = 5 is their recommendation."""

    def weigh(log_snr: PerExample, prediction: Prediction, density: Callable[[], PerExample]) -> PerExample:
        return jnp.minimum(jnp.exp(log_snr), gamma) / prediction.clean_error_weight(log_snr)

    return weigh


def edm_weighting(log_snr: PerExample, prediction: Prediction, density: Callable[[], PerExample]) -> PerExample:
    """Weights as Karras et al. 2022; made for ``noise_levels.log_normal``."""
    of_clean = jnp.exp(log_snr) + 1.0 / SIGMA_OF_DATA**2
    return of_clean / prediction.clean_error_weight(log_snr)


def sigmoid_weighting(bias: float) -> Weighting:
    """Makes the sigmoid weighting (Kingma & Gao 2023), the same objective for every density of noise levels.

    Args:
        bias: b; larger values train more on nearly clean inputs.
    """

    def weigh(log_snr: PerExample, prediction: Prediction, density: Callable[[], PerExample]) -> PerExample:
        of_noise = jax.nn.sigmoid(bias - log_snr) / density()
        # The noise's error is SNR times the clean sample's.
        return of_noise * jnp.exp(log_snr) / prediction.clean_error_weight(log_snr)

    return weigh


def sample_quantiles(key: RandomKey, batch: int, stratified: bool = False) -> PerExample:
    """Samples a quantile in [0, 1) for each example.

    Args:
        key: random key.
        batch: number of examples.
        stratified: whether to spread one random offset evenly over the batch. This lowers the variance of the loss
            (Kingma et al. 2021, appendix I.1); each single quantile is still uniform. Imagen samples independently
            (False).
    """
    if stratified:
        return (jax.random.uniform(key, ()) + jnp.arange(batch) / batch) % 1.0
    return jax.random.uniform(key, (batch,))


class NoisedBatch(NamedTuple):
    """Clean samples, noised at random noise levels.

    Attributes:
        noisy: z_λ.
        noise: ε, the noise in them.
        log_snr: λ of each example.
        quantile: the random quantile of each example, from which λ follows.
    """

    noisy: Samples
    noise: Samples
    log_snr: PerExample
    quantile: PerExample


def noise_batch(clean: Samples, key: RandomKey, levels: LevelOf, stratified: bool = False) -> NoisedBatch:
    """Noises each example of a batch at a random noise level; the arguments are those of ``denoising_losses``."""
    level_key, noise_key = jax.random.split(key)
    quantile = sample_quantiles(level_key, clean.shape[0], stratified)
    log_snr = levels(quantile)
    noise = jax.random.normal(noise_key, clean.shape)
    return NoisedBatch(add_noise(clean, noise, log_snr), noise, log_snr, quantile)


def weighted_errors(
    output: Samples,
    clean: Samples,
    noised: NoisedBatch,
    *,
    levels: LevelOf,
    prediction: Prediction,
    weighting: Weighting = uniform_weighting,
) -> PerExample:
    """Returns the weighted squared error of the network's output for each example. Equation (1) before the mean.

    Args:
        output: the network's output for ``noised``.
        clean: the clean samples.
        noised: the noised samples.
        levels: distribution from which their log-SNRs were drawn.
        prediction: the kind of the output.
        weighting: weight of each noise level.

    Raises:
        ValueError: the output has another shape than the clean samples.
    """
    target = prediction.target(clean, noised.noise, noised.log_snr)
    check_same_shape(target=target, **{"the network's output": output})
    error = jnp.mean(jnp.square(output - target), axis=tuple(range(1, clean.ndim)))
    return weighting(noised.log_snr, prediction, lambda: density_of(levels, noised.quantile)) * error


def denoising_losses(
    predict: Predict,
    clean: Samples,
    key: RandomKey,
    *,
    levels: LevelOf,
    prediction: Prediction,
    weighting: Weighting = uniform_weighting,
    stratified: bool = False,
) -> tuple[PerExample, PerExample]:
    """Returns the weighted loss of each example of a batch, and its log-SNR. Equation (1) before the mean.

    Args:
        predict: the network, see ``Predict``.
        clean: clean samples, such as images in [-1, 1].
        key: random key, split into one for the noise levels and one for the noise.
        levels: distribution of the log-SNRs, such as ``noise_levels.times(schedule)``.
        prediction: the kind of output that ``predict`` returns.
        weighting: weight of each noise level, see ``Weighting``.
        stratified: argument ``stratified`` of ``sample_quantiles``.

    Raises:
        ValueError: the network's output has another shape than the clean samples.
    """
    noised = noise_batch(clean, key, levels, stratified)
    output = predict(noised.noisy, noised.log_snr)
    errors = weighted_errors(output, clean, noised, levels=levels, prediction=prediction, weighting=weighting)
    return errors, noised.log_snr


def denoising_loss(predict: Predict, clean: Samples, key: RandomKey, **settings: Any) -> Scalar:
    """Returns the mean loss of one batch. Equation (1). The arguments are those of ``denoising_losses``."""
    losses, _ = denoising_losses(predict, clean, key, **settings)
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
