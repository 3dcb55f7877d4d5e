r"""Step rules: one step from z_t to z_s, s < t, given the estimate x̂ of the clean sample.

Ancestral sampling samples from the reverse process (Imagen, section 2.2 and appendix; Kingma et al. 2021, equation 31):
with ε̂ = (z_t - α_t x̂) / σ_t and r = exp(λ_t - λ_s), which is below 1,

    mean = r (α_s/α_t) z_t + (1 - r) α_s x̂                                                      (1)
    σ̃² = (1 - r) σ_s²   (min),      σ² = (1 - r) σ_t²   (max)                                   (2)
    z_s = mean + sqrt((σ̃²)^(1-γ) (σ²)^γ) ε                                                      (3)

A network that learns its variance outputs γ for each value of the sample (Nichol & Dhariwal 2021, equation 15).

The best variance of this form is known too (Bao et al. 2022, theorem 1): what x̂ leaves open adds to σ̃²,

    σ*² = σ̃² + ((1 - r) α_s)² E|x - x̂|²/d                                                       (5)

with the mean squared error of x̂ over the data and the d values of a sample, measured beforehand.

The last step, onto the clean sample, has ε = 0 in every rule (Ho et al. 2020, algorithm 2, line 3): no later step would
remove its noise. ``sampler.take_steps`` passes zeros there.

DDIM (Song et al. 2021, equation 12) keeps the estimated noise ε̂. With η = 0 it adds no new noise; with η = 1 it is
ancestral sampling with γ = 0:

    z_s = α_s x̂ + sqrt(σ_s² - (η σ̃)²) ε̂ + η σ̃ ε                                                 (4)

A rule is a pair of pure functions, as in optax: ``init(noisy)`` makes the memory of a multi-step rule (empty for these
two), and ``step`` takes one step. A step calls the denoiser itself, as often as it needs. ``solvers`` has rules that
need fewer steps.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from imagen_jax.array_types import Denoiser, PerExample, Samples
from imagen_jax.diffusion.process import expand, noise_from_clean, signal_and_noise_scale
from imagen_jax.diffusion.schedules import LOG_SNR_LIMIT
from imagen_jax.sampling.estimates import split_estimate

Memory = Any


class StepRule(NamedTuple):
    """One method of sampling: the arithmetic of its steps.

    Attributes:
        name: name for messages and the images' metadata.
        init: ``noisy -> memory``.
        step: ``(denoise, noisy, log_snr, next_log_snr, noise, memory) -> (next noisy, memory)``; ``noise`` is new
            standard normal noise for the rules that use it, and zero in the step onto the clean sample.
        reads_variance: whether the rule uses γ from a network that learns its variance.
    """

    name: str
    init: Callable[[Samples], Memory]
    step: Callable[[Denoiser, Samples, PerExample, PerExample, Samples, Memory], tuple[Samples, Memory]]
    reads_variance: bool = False


def no_memory(noisy: Samples) -> Memory:
    """Returns the empty memory of a single-step rule."""
    return ()


def fraction_replaced(log_snr: PerExample, next_log_snr: PerExample, like: Samples) -> Samples:
    """Returns 1 - r of equation (1), shaped to multiply samples: the fraction of the noise that a step replaces."""
    return expand(-jnp.expm1(log_snr - next_log_snr), like)


def is_clean(log_snr: PerExample) -> Bool[Array, " batch"]:
    """Returns for each log-SNR whether a step to it ends on the clean sample."""
    return log_snr > 0.99 * LOG_SNR_LIMIT


def posterior_mean(
    clean: Samples, noisy: Samples, log_snr: PerExample, next_log_snr: PerExample
) -> tuple[Samples, Samples]:
    """Returns the mean of equation (1), and the 1 - r of ``fraction_replaced``."""
    alpha, _ = signal_and_noise_scale(log_snr, noisy)
    next_alpha, _ = signal_and_noise_scale(next_log_snr, noisy)
    replaced = fraction_replaced(log_snr, next_log_snr, noisy)
    return (1.0 - replaced) * (next_alpha / alpha) * noisy + replaced * next_alpha * clean, replaced


def ancestral(gamma: float = 0.0) -> StepRule:
    """Makes the rule of ancestral sampling. Equations (1) to (3).

    Args:
        gamma: 0 for the min posterior variance, 1 for the max; values between interpolate geometrically. A network that
            learns its variance overrides it.
    """

    def step(denoise, noisy, log_snr, next_log_snr, noise, memory):
        clean, learned = split_estimate(denoise(noisy, log_snr))
        mean, replaced = posterior_mean(clean, noisy, log_snr, next_log_snr)
        _, sigma = signal_and_noise_scale(log_snr, noisy)
        _, next_sigma = signal_and_noise_scale(next_log_snr, noisy)
        interpolation = gamma if learned is None else learned
        deviation = jnp.sqrt(replaced) * next_sigma ** (1.0 - interpolation) * sigma**interpolation
        return mean + deviation * noise, memory

    return StepRule(f"ancestral (γ = {gamma:g})", no_memory, step, reads_variance=True)


ERROR_LOG_SNRS = tuple(range(-10, 11))
"""The log-SNRs at which E|x - x̂|²/d of equation (5) is given; between them it is interpolated linearly."""


def analytic(estimate_errors: Sequence[float]) -> StepRule:
    """Makes the rule of ancestral sampling with the best variance. Equations (1) and (5).

    Args:
        estimate_errors: E|x - x̂|²/d at each of ``ERROR_LOG_SNRS``.
    """
    known = np.asarray(ERROR_LOG_SNRS, np.float32), np.asarray(estimate_errors, np.float32)

    def step(denoise, noisy, log_snr, next_log_snr, noise, memory):
        clean, _ = split_estimate(denoise(noisy, log_snr))
        mean, replaced = posterior_mean(clean, noisy, log_snr, next_log_snr)
        next_alpha, next_sigma = signal_and_noise_scale(next_log_snr, noisy)
        error = expand(jnp.interp(log_snr, *known), noisy)
        variance = replaced * jnp.square(next_sigma) + jnp.square(replaced * next_alpha) * error
        return mean + jnp.sqrt(variance) * noise, memory

    return StepRule("analytic", no_memory, step)


def ddim(eta: float = 0.0) -> StepRule:
    """Makes the DDIM rule. Equation (4).

    Args:
        eta: 0 for the deterministic rule, 1 for ancestral noise.
    """

    def step(denoise, noisy, log_snr, next_log_snr, noise, memory):
        clean, _ = split_estimate(denoise(noisy, log_snr))
        next_alpha, next_sigma = signal_and_noise_scale(next_log_snr, noisy)
        fresh = eta * jnp.sqrt(fraction_replaced(log_snr, next_log_snr, noisy)) * next_sigma
        kept = jnp.sqrt(jax.nn.relu(jnp.square(next_sigma) - jnp.square(fresh)))
        return next_alpha * clean + kept * noise_from_clean(clean, noisy, log_snr) + fresh * noise, memory

    return StepRule(f"ddim (η = {eta:g})", no_memory, step)
