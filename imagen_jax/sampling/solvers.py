r"""Higher-order step rules for the probability-flow ODE, which stay close to its solution with few steps.

With l = λ/2 = log(α/σ), every path of the ODE satisfies exactly, for h = l_s - l_t (Lu et al. 2022b, "DPM-Solver++",
proposition 4.1),

    z_s = (σ_s/σ_t) z_t + α_s ∫₀^h e^(u-h) x̂(l_t + u) du                                        (1)

The rules differ in how they approximate x̂ between the log-SNRs at which they evaluate the denoiser.

A constant gives DDIM. The line through the current and the previous evaluation, taken at the middle of the step, gives
DPM-Solver++(2M) (Lu et al. 2022b, algorithm 2). It is a DDIM step whose estimate is

    x̂ + (h / 2h₋) (x̂ - x̂₋),    h₋ the step before                                                (2)

The same estimate in an ancestral step gives DPM-Solver++(2M) for the SDE (appendix B). A polynomial through all
available evaluations, integrated exactly, gives UniPC (Zhao et al. 2023, section 3) with varying coefficients. Its
steps predict with two evaluations. They are corrected with a third when it is available, without another call.

Heun (Karras et al. 2022, algorithm 1, without churn) steps in σ̃ = σ/α, where dy/dσ̃ = ε̂ for y = z/α. It steps once
with the slope at the start, then again with the mean of the slopes at the start and the end: two calls a step. Above σ̃
= 80, where that paper starts and steps in σ̃ are long, it is DDIM.

The last step, onto the clean sample, is DDIM's in all of them: l rises more in it than in all steps before.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from imagen_jax.array_types import PerExample, Samples
from imagen_jax.diffusion.process import expand, noise_from_clean, signal_and_noise_scale
from imagen_jax.sampling.estimates import split_estimate
from imagen_jax.sampling.spacings import NOISIEST
from imagen_jax.sampling.step_rules import StepRule, ancestral, ddim, is_clean, no_memory

EMPTY_LOG_SNR = -1e12
"""A log-SNR so low that an evaluation there has no weight."""


class Evaluation(NamedTuple):
    """A denoiser's estimate, and the log-SNR at which it was evaluated.

    Attributes:
        clean: estimate of the clean samples.
        log_snr: log-SNR of the noisy samples.
    """

    clean: Samples
    log_snr: PerExample


def empty_history(noisy: Samples, log_snr: float = EMPTY_LOG_SNR) -> Evaluation:
    """Returns the placeholder for the previous evaluation before the first step."""
    return Evaluation(jnp.zeros_like(noisy), jnp.full(noisy.shape[:1], log_snr, noisy.dtype))


def extrapolate(rule: StepRule, name: str) -> StepRule:
    """Makes a second-order rule from a first-order one, by equation (2).

    Args:
        rule: first-order rule that calls its denoiser once and has no memory.
        name: name of the new rule.
    """

    def step(denoise, noisy, log_snr, next_log_snr, noise, memory):
        clean, _ = split_estimate(denoise(noisy, log_snr))
        weight = (next_log_snr - log_snr) / (2.0 * (log_snr - memory.log_snr))
        weight = expand(jnp.where(is_clean(next_log_snr), 0.0, weight), noisy)
        estimate = clean + weight * (clean - memory.clean)
        stepped, _ = rule.step(lambda *_: estimate, noisy, log_snr, next_log_snr, noise, ())
        return stepped, Evaluation(clean, log_snr)

    return StepRule(name, empty_history, step)


def dpm_solver_2m() -> StepRule:
    """Makes DPM-Solver++(2M): deterministic, second order, one denoiser call a step."""
    return extrapolate(ddim(), "DPM-Solver++(2M)")


def dpm_solver_2m_sde() -> StepRule:
    """Makes DPM-Solver++(2M) for the SDE: it adds new noise at every step, as ancestral sampling does."""
    return extrapolate(ancestral(), "DPM-Solver++(2M) SDE")


def heun() -> StepRule:
    """Makes Heun's method of Karras et al. 2022: deterministic, second order, two denoiser calls a step."""

    def step(denoise, noisy, log_snr, next_log_snr, noise, memory):
        clean, _ = split_estimate(denoise(noisy, log_snr))
        slope = noise_from_clean(clean, noisy, log_snr)
        alpha, sigma = signal_and_noise_scale(log_snr, noisy)
        next_alpha, next_sigma = signal_and_noise_scale(next_log_snr, noisy)
        # As in DDIM. At high noise, z + (σ̃_s - σ̃_t) ε̂ would be a difference of large numbers and lose precision.
        predicted = next_alpha * clean + next_sigma * slope

        def correct():
            next_clean, _ = split_estimate(denoise(predicted, next_log_snr))
            next_slope = noise_from_clean(next_clean, predicted, next_log_snr)
            return predicted + (next_sigma - next_alpha * sigma / alpha) * (next_slope - slope) / 2.0

        # All examples of a batch have the same log-SNR.
        is_curved = (log_snr[0] >= NOISIEST - 0.01) & ~is_clean(next_log_snr)[0]
        return jax.lax.cond(is_curved, correct, lambda: predicted), memory

    return StepRule("Heun", no_memory, step)


class History(NamedTuple):
    """The memory of UniPC.

    Attributes:
        noisy: noisy samples at the start of the last step, after their correction.
        last: evaluation at the start of the last step.
        one_before: evaluation at the start of the step before it.
    """

    noisy: Samples
    last: Evaluation
    one_before: Evaluation


def unipc() -> StepRule:
    """Makes UniPC with a predictor of order 2 and a corrector of order 3: deterministic, one call a step."""

    def init(noisy: Samples) -> History:
        return History(noisy, empty_history(noisy), empty_history(noisy, 2.0 * EMPTY_LOG_SNR))

    def step(denoise, noisy, log_snr, next_log_snr, noise, memory):
        clean, _ = split_estimate(denoise(noisy, log_snr))
        here = Evaluation(clean, log_snr)
        has_history = memory.last.log_snr > EMPTY_LOG_SNR
        begun = jnp.where(has_history, memory.last.log_snr, log_snr - 1.0)
        corrected = integrate(memory.noisy, begun, log_snr, (memory.last, here, memory.one_before))
        noisy = jnp.where(expand(has_history, noisy), corrected, noisy)
        last = memory.last._replace(log_snr=jnp.where(is_clean(next_log_snr), EMPTY_LOG_SNR, memory.last.log_snr))
        return integrate(noisy, log_snr, next_log_snr, (here, last)), History(noisy, here, memory.last)

    return StepRule("UniPC", init, step)


def integrate(
    noisy: Samples, log_snr: PerExample, next_log_snr: PerExample, answers: tuple[Evaluation, ...]
) -> Samples:
    """Integrates equation (1) with the polynomial through two or three evaluations, the first at ``log_snr``."""
    second = (answers[1].log_snr - log_snr) / 2.0
    # Newton's divided differences; with u₁ = 0 their polynomials are 1, u and u (u - u₂).
    slope = (answers[1].clean - answers[0].clean) / expand(second, noisy)
    constant, linear, quadratic = exponential_moments((next_log_snr - log_snr) / 2.0)
    whole = expand(constant, noisy) * answers[0].clean + expand(linear, noisy) * slope
    if len(answers) == 3:
        third = (answers[2].log_snr - log_snr) / 2.0
        other_slope = (answers[2].clean - answers[1].clean) / expand(third - second, noisy)
        curvature = (other_slope - slope) / expand(third, noisy)
        whole = whole + expand(quadratic - second * linear, noisy) * curvature
    _, sigma = signal_and_noise_scale(log_snr, noisy)
    next_alpha, next_sigma = signal_and_noise_scale(next_log_snr, noisy)
    return next_sigma / sigma * noisy + next_alpha * whole


def exponential_moments(height: PerExample) -> tuple[PerExample, PerExample, PerExample]:
    """Returns ∫₀^h e^(u-h) u^n du for n = 0, 1, 2, h ≥ 0.

    Integration by parts gives M_n = h^n - n M_(n-1), which loses all digits for small h. There we use the first terms
    of the series h^(n+1) n! Σ_k (-h)^k / (n+1+k)!.
    """
    safe = jnp.maximum(height, 0.5)
    constant = -jnp.expm1(-height)
    linear = safe + jnp.expm1(-safe)
    quadratic = safe**2 - 2.0 * linear

    def series(power: int, coefficients: tuple[float, ...]) -> PerExample:
        return height ** (power + 1) * jnp.polyval(jnp.asarray(coefficients[::-1]), height)

    # 1/2!, -1/3!, …; and twice 1/3!, -1/4!, …
    small_linear = series(1, (1 / 2, -1 / 6, 1 / 24, -1 / 120, 1 / 720, -1 / 5040, 1 / 40320))
    small_quadratic = series(2, (1 / 3, -1 / 12, 1 / 60, -1 / 360, 1 / 2520, -1 / 20160, 1 / 181440))
    is_small = height < 0.5
    return constant, jnp.where(is_small, small_linear, linear), jnp.where(is_small, small_quadratic, quadratic)
