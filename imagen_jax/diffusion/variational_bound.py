r"""The variational bound on the negative log-likelihood, term by term (Ho et al. 2020, equation 5), in bits per value.

For a discrete process of T steps with log-SNRs λ_1 > … > λ_T and the log-SNR of the clean sample λ_0,

    L = L_T + Σ_{t=2..T} L_{t-1} + L_0                                                          (1)

    L_T     = KL( q(z_T | x) ‖ N(0, I) )                          nothing is learned here
    L_{t-1} = KL( q(z_{t-1} | z_t, x) ‖ p(z_{t-1} | z_t) )        one for each step
    L_0     = -log p(x | z_1)

Both distributions of L_{t-1} are Gaussian. Their means differ by the error of the denoiser x̂, and with r = exp(λ_t -
λ_{t-1}), the fraction of the noise that stays (``sampling.step_rules``, equations 1 and 2),

    mean difference = (1 - r) α_{t-1} (x - x̂),      variance of q: σ̃² = (1 - r) σ²_{t-1}        (2)

p has the variance σ̃² too ("small"), or σ² = (1 - r) σ_t² ("large"), or a learned one between the two (Nichol & Dhariwal
2021, equation 15). For values that are whole numbers of 8 bits, scaled to [-1, 1], L_0 integrates p over the width of a
number (Ho et al. 2020, equation 13).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from imagen_jax.array_types import Denoiser, EstimateWithVariance, PerExample, RandomKey, Samples
from imagen_jax.diffusion.process import add_noise, expand, signal_and_noise_scale
from imagen_jax.diffusion.schedules import Schedule

STEPS = 1000
HALF_WIDTH = 1.0 / 255.0
"""Half the distance between two of the 256 numbers in [-1, 1]."""


class BoundTerms(NamedTuple):
    """The terms of equation (1) in bits per value; their sum is the bound.

    Attributes:
        prior: L_T of each example.
        steps: L_{t-1} of each example, for t = 2 … T, clean to noisy.
        data: L_0 of each example.
    """

    prior: PerExample
    steps: Float[Array, "batch steps"]
    data: PerExample

    @property
    def total(self) -> PerExample:
        """The bound of each example, in bits per value."""
        return self.prior + self.steps.sum(1) + self.data


def normal_divergence(
    difference: Samples, log_variance: Samples, other_log_variance: Samples
) -> Float[Array, "batch _ ..."]:
    """Returns KL(N(a, v) ‖ N(b, w)) of each value, in nats, from a - b, log v and log w."""
    ratio = log_variance - other_log_variance
    return 0.5 * (jnp.exp(ratio) - 1.0 - ratio + jnp.square(difference) * jnp.exp(-other_log_variance))


def bits(nats: Samples) -> PerExample:
    """Returns the mean over all values of an example, in bits."""
    return nats.mean(axis=tuple(range(1, nats.ndim))) / jnp.log(2.0)


def discrete_log_density(clean: Samples, mean: Samples, deviation: Samples) -> Samples:
    """Returns the log-probability of 8-bit values under a Gaussian. Ho et al. 2020, equation 13."""
    logcdf = jax.scipy.stats.norm.logcdf
    # The smallest value takes all below it, the largest all above.
    lowest, highest = (logcdf((sign * (clean - mean) + HALF_WIDTH) / deviation) for sign in (1, -1))
    # In the lower tail, where logarithms of both ends are precise; a Gaussian is symmetric.
    distance = -jnp.abs(clean - mean)
    upper, lower = (logcdf((distance + sign * HALF_WIDTH) / deviation) for sign in (1, -1))
    between = upper + jnp.log1p(-jnp.exp(jnp.minimum(lower - upper, -1e-7)))
    return jnp.where(clean < -0.999, lowest, jnp.where(clean > 0.999, highest, between))


def bound_terms(
    denoise: Denoiser,
    clean: Samples,
    key: RandomKey,
    schedule: Schedule,
    steps: int = STEPS,
    large_variance: bool = False,
) -> BoundTerms:
    """Returns the terms of the bound for clean samples of 8-bit values in [-1, 1].

    Each term takes one sample of its noise, so the mean over many examples is the bound. It calls the denoiser once for
    each step.

    Args:
        denoise: the denoiser, without guidance and thresholding. If it learns its variance, that is p's.
        clean: clean samples.
        key: random key.
        schedule: function from time to log-SNR.
        steps: T, the number of steps of the discrete process.
        large_variance: whether p has the large variance, and not the small one.
    """
    log_snrs = schedule(jnp.arange(steps + 1) / steps)
    _, data_key, steps_key = jax.random.split(key, 3)

    def level(number: Int[Array, ""] | int) -> PerExample:
        return jnp.full(clean.shape[:1], log_snrs[number])

    alpha, sigma = signal_and_noise_scale(level(steps), clean)
    prior = bits(normal_divergence(alpha * clean, jnp.broadcast_to(2 * jnp.log(sigma), clean.shape), 0.0 * clean))

    def step_term(carry: None, number: jax.Array) -> tuple[None, PerExample]:
        here, cleaner = level(number), level(number - 1)
        noise = jax.random.normal(jax.random.fold_in(steps_key, number), clean.shape)
        estimate = denoise(add_noise(clean, noise, here), here)
        difference, posterior, chosen = step_distributions(estimate, clean, here, cleaner, large_variance)
        return carry, bits(normal_divergence(difference, posterior, chosen))

    _, terms = jax.lax.scan(step_term, None, jnp.arange(2, steps + 1))
    first = level(1)
    noise = jax.random.normal(data_key, clean.shape)
    estimate = denoise(add_noise(clean, noise, first), first)
    return BoundTerms(prior, terms.T, data_term(estimate, clean, first, level(2), large_variance))


def data_term(
    estimate: Samples | EstimateWithVariance,
    clean: Samples,
    first: PerExample,
    second: PerExample,
    large_variance: bool = False,
) -> PerExample:
    """Returns L_0 of each example, in bits per value.

    Args:
        estimate: the denoiser's estimate at the cleanest step.
        clean: clean samples of 8-bit values in [-1, 1].
        first: λ_1, the log-SNR of the cleanest step.
        second: λ_2, that of the step before it.
        large_variance: whether p has the large variance, and not the small one, if it is not learned.
    """
    # The small variance is 0 here, so that of the step before takes its place (Nichol & Dhariwal 2021, section 3.1).
    _, small, _ = step_distributions(estimate, clean, second, first, large_variance)
    _, sigma = signal_and_noise_scale(first, clean)
    large = jnp.broadcast_to(2 * jnp.log(sigma), clean.shape)
    mean, chosen = choose_variance(estimate, small, large, large_variance)
    return -bits(discrete_log_density(clean, mean, jnp.exp(chosen / 2)))


def step_distributions(
    estimate: Samples | EstimateWithVariance,
    clean: Samples,
    log_snr: PerExample,
    cleaner_log_snr: PerExample,
    large_variance: bool,
) -> tuple[Samples, Samples, Samples]:
    """Returns the difference of both means, and the log-variances of q and p. Equation (2)."""
    _, sigma = signal_and_noise_scale(log_snr, clean)
    cleaner_alpha, cleaner_sigma = signal_and_noise_scale(cleaner_log_snr, clean)
    replaced = expand(-jnp.expm1(log_snr - cleaner_log_snr), clean)
    small = jnp.broadcast_to(jnp.log(replaced) + 2 * jnp.log(cleaner_sigma), clean.shape)
    large = jnp.broadcast_to(jnp.log(replaced) + 2 * jnp.log(sigma), clean.shape)
    mean, chosen = choose_variance(estimate, small, large, large_variance)
    return replaced * cleaner_alpha * (clean - mean), small, chosen


def choose_variance(
    estimate: Samples | EstimateWithVariance, small: Samples, large: Samples, large_variance: bool
) -> tuple[Samples, Samples]:
    """Returns the estimate of the clean samples, and the log-variance of p: a learned one, the small or the large."""
    if isinstance(estimate, EstimateWithVariance):
        return estimate.clean, (1.0 - estimate.gamma) * small + estimate.gamma * large
    return estimate, large if large_variance else small
