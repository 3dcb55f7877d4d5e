r"""The loss of a network that learns its variance (Nichol & Dhariwal 2021, "Improved DDPM", sections 3.1 and 3.4).

The network outputs its prediction, and for each value a number v, mostly in [-1, 1], that says where the log-variance
lies between its bounds: γ = (v + 1) / 2 (``step_rules``, equation 3). It trains on

    L_hybrid = L_simple + w L_vlb,     w = 0.001                                                (1)
    L_vlb = L_0 + Σ_{t=2..T} L_{t-1} = T · E_{t ~ U{1..T}} [L_{t-1}]                            (2)

L_simple is the weighted squared error (``loss``), a mean over the values of an example. The terms of L_vlb are those of
``variational_bound`` in bits per value, with the network's variance, and their sum has T = 1000 steps. A training
example has one noise level, and its loss is

    squared error + w T L_{t-1},       w T = 1                                                  (3)

No gradient of L_vlb reaches the prediction: it trains v alone.

Training draws any time t, not only whole steps. The term at t is that of the step from t to t - 1/1000, and below
1/1000 it is L_0. Where t is not uniform (``training.noise_levels``), neither are the weights of the terms.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from imagen_jax.array_types import EstimateWithVariance, PerExample, RandomKey, Samples
from imagen_jax.diffusion.loss import Predict, Weighting, noise_batch, uniform_weighting, weighted_errors
from imagen_jax.diffusion.noise_levels import LevelOf
from imagen_jax.diffusion.process import Prediction, expand
from imagen_jax.diffusion.schedules import Schedule
from imagen_jax.diffusion.variational_bound import STEPS, bits, data_term, normal_divergence, step_distributions

WEIGHT = 0.001
"""w of equation (1)."""


def split_variance(output: Float[Array, "batch ... channels"]) -> tuple[Samples, Samples]:
    """Splits a network's output, of twice the channels of its samples, into its prediction and γ."""
    predicted, variance = jnp.split(output, 2, axis=-1)
    # From [-1, 1], the min to the max log-variance, to [0, 1].
    return predicted, (variance + 1.0) / 2.0


def cleaner_levels(schedule: Schedule, steps: int = STEPS) -> Callable[[PerExample], PerExample]:
    """Makes ``cleaner(log_snr)``: the log-SNR one of ``steps`` steps nearer to the clean sample.

    It is exact at the steps, and interpolated linearly between two of them. Below the first step it is that of the
    clean sample.
    """
    log_snrs = schedule(jnp.arange(steps + 1) / steps)

    def cleaner(log_snr: PerExample) -> PerExample:
        return jnp.interp(log_snr, log_snrs[:0:-1], log_snrs[-2::-1])

    return cleaner


def variance_losses(
    estimate: EstimateWithVariance, clean: Samples, log_snr: PerExample, schedule: Schedule, steps: int = STEPS
) -> PerExample:
    """Returns the term of equation (2) of each example, in bits per value; its gradient reaches γ alone.

    Args:
        estimate: estimate of the clean samples, and γ.
        clean: clean samples of 8-bit values in [-1, 1].
        log_snr: log-SNR of each example.
        schedule: function from time to log-SNR.
        steps: T, at least 2.
    """
    estimate = estimate._replace(clean=jax.lax.stop_gradient(estimate.clean))
    first, second = (jnp.full_like(log_snr, schedule(jnp.asarray(number / steps))) for number in (1, 2))
    # The first step's level is the same number twice, computed in two ways.
    is_first = log_snr >= first - 1e-5 * jnp.abs(first)
    # Each branch takes inputs for which it is finite: a gradient through the other one would be zero times infinity.
    here = jnp.where(is_first, second, log_snr)
    cleaner = jnp.where(is_first, first, cleaner_levels(schedule, steps)(log_snr))
    of_step = bits(normal_divergence(*step_distributions(estimate, clean, here, cleaner, large_variance=False)))
    near = estimate._replace(clean=jnp.where(expand(is_first, clean), estimate.clean, clean))
    return jnp.where(is_first, data_term(near, clean, first, second), of_step)


def hybrid_losses(
    predict: Predict,
    clean: Samples,
    key: RandomKey,
    *,
    levels: LevelOf,
    prediction: Prediction,
    schedule: Schedule,
    weighting: Weighting = uniform_weighting,
    stratified: bool = False,
    weight: float = WEIGHT,
) -> tuple[PerExample, PerExample]:
    """Returns the loss of each example of a batch, and its log-SNR. Equation (3).

    The noise and its levels are those of ``loss.denoising_losses`` with the same key.

    Args:
        predict: the network; its output has twice the channels of ``clean``.
        clean: clean samples of 8-bit values in [-1, 1].
        key: random key.
        levels: distribution of the log-SNRs.
        prediction: the kind of the first half of the output.
        schedule: function from time to log-SNR, which has the 1000 steps.
        weighting: weight of each noise level in L_simple; L_vlb has none.
        stratified: argument ``stratified`` of ``loss.sample_quantiles``.
        weight: w.

    Raises:
        ValueError: half of the network's output has another shape than the clean samples.
    """
    noised = noise_batch(clean, key, levels, stratified)
    predicted, gamma = split_variance(predict(noised.noisy, noised.log_snr))
    errors = weighted_errors(predicted, clean, noised, levels=levels, prediction=prediction, weighting=weighting)
    estimate = EstimateWithVariance(prediction.to_clean(predicted, noised.noisy, noised.log_snr), gamma)
    return errors + weight * STEPS * variance_losses(estimate, clean, noised.log_snr, schedule), noised.log_snr
