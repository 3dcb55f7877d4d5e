r"""Rules of higher order for the probability-flow ODE: few steps, and still near its solution.

With l = λ/2 = log(α/σ), every path of the ODE obeys exactly, for h = l_s - l_t (Lu et al. 2022b, "DPM-Solver++",
proposition 4.1),

    z_s = (σ_s/σ_t) z_t + α_s ∫₀^h e^(u-h) x̂(l_t + u) du                                        (1)

and a rule is what it takes for x̂ between the log-SNRs at which it asked the denoiser.

Constant: DDIM. A line through this answer and the last one, at the middle of the step: DPM-Solver++(2M) (Lu et al.
2022b, algorithm 2), which is a DDIM step whose estimate is

    x̂ + (h / 2h₋) (x̂ - x̂₋),    h₋ the step before                                                (2)

and the same in an ancestral step is DPM-Solver++(2M) for the SDE (appendix B). A polynomial through all answers at
hand, integrated exactly: UniPC (Zhao et al. 2023, section 3) with varying coefficients, whose steps predict with two
answers, and correct themselves with the third when it is there, at no further call.

Heun (Karras et al. 2022, algorithm 1, without churn) steps in σ̃ = σ/α, where dy/dσ̃ = ε̂ for y = z/α: once with the slope
here, then with the mean of this slope and the slope there. Two calls a step. Above σ̃ = 80, where that paper begins and
steps in σ̃ are long, it is DDIM.

The last step, onto the clean image, is DDIM's in all of them: l rises there by more than in all steps before it.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from imagen_jax.array_types import Images, PerExample
from imagen_jax.diffusion.process import noise_from_image, signal_and_noise_scale
from imagen_jax.sampling.estimates import split_estimate
from imagen_jax.sampling.spacings import NOISIEST
from imagen_jax.sampling.step_rules import StepRule, ancestral, ddim, is_clean, no_memory

FAR_LOG_SNR = -1e12
"""A log-SNR so far away that an answer said to be from there weighs nothing."""


class Evaluation(NamedTuple):
    """An estimate, and what it was an estimate at.

    Attributes:
        image: of the clean images.
        log_snr: of the noisy images.
    """

    image: Images
    log_snr: PerExample


def empty_history(noisy: Images, log_snr: float = FAR_LOG_SNR) -> Evaluation:
    """What is remembered before the first step."""
    return Evaluation(jnp.zeros_like(noisy), jnp.full(noisy.shape[:1], log_snr, noisy.dtype))


def for_images(numbers: PerExample) -> Float[Array, "batch 1 1 1"]:
    """A number for each example, shaped to multiply images."""
    return numbers[:, None, None, None]


def extrapolate(rule: StepRule, name: str) -> StepRule:
    """Makes a rule of second order of one of first order, by equation (2).

    Args:
        rule: calls its denoiser once, and remembers nothing.
        name: of the new rule.
    """

    def step(denoise, noisy, log_snr, next_log_snr, noise, memory):
        image, _ = split_estimate(denoise(noisy, log_snr))
        weight = (next_log_snr - log_snr) / (2.0 * (log_snr - memory.log_snr))
        weight = for_images(jnp.where(is_clean(next_log_snr), 0.0, weight))
        estimate = image + weight * (image - memory.image)
        stepped, _ = rule.step(lambda *_: estimate, noisy, log_snr, next_log_snr, noise, ())
        return stepped, Evaluation(image, log_snr)

    return StepRule(name, empty_history, step)


def dpm_solver_2m() -> StepRule:
    """DPM-Solver++(2M): deterministic, second order, one call a step."""
    return extrapolate(ddim(), "DPM-Solver++(2M)")


def dpm_solver_2m_sde() -> StepRule:
    """DPM-Solver++(2M) for the SDE: draws new noise at every step, as ancestral sampling does."""
    return extrapolate(ancestral(), "DPM-Solver++(2M) SDE")


def heun() -> StepRule:
    """Heun's method as Karras et al. 2022 have it: deterministic, second order, two calls a step."""

    def step(denoise, noisy, log_snr, next_log_snr, noise, memory):
        image, _ = split_estimate(denoise(noisy, log_snr))
        slope = noise_from_image(image, noisy, log_snr)
        alpha, sigma = signal_and_noise_scale(log_snr)
        next_alpha, next_sigma = signal_and_noise_scale(next_log_snr)
        # As in DDIM, and not z + (σ̃_s - σ̃_t) ε̂, which where there is mostly noise is a difference of large numbers.
        predicted = next_alpha * image + next_sigma * slope

        def correct():
            next_image, _ = split_estimate(denoise(predicted, next_log_snr))
            next_slope = noise_from_image(next_image, predicted, next_log_snr)
            return predicted + (next_sigma - next_alpha * sigma / alpha) * (next_slope - slope) / 2.0

        # The log-SNR is one for all examples of a batch.
        is_curved = (log_snr[0] >= NOISIEST - 0.01) & ~is_clean(next_log_snr)[0]
        return jax.lax.cond(is_curved, correct, lambda: predicted), memory

    return StepRule("Heun", no_memory, step)


class History(NamedTuple):
    """What UniPC remembers.

    Attributes:
        noisy: where the last step began, as corrected.
        last: the denoiser's answer there.
        one_before: its answer before that.
    """

    noisy: Images
    last: Evaluation
    one_before: Evaluation


def unipc() -> StepRule:
    """UniPC, predicting with order 2 and correcting with order 3: deterministic, one call a step."""

    def init(noisy: Images) -> History:
        return History(noisy, empty_history(noisy), empty_history(noisy, 2.0 * FAR_LOG_SNR))

    def step(denoise, noisy, log_snr, next_log_snr, noise, memory):
        image, _ = split_estimate(denoise(noisy, log_snr))
        here = Evaluation(image, log_snr)
        has_past = memory.last.log_snr > FAR_LOG_SNR
        begun = jnp.where(has_past, memory.last.log_snr, log_snr - 1.0)
        corrected = integrate(memory.noisy, begun, log_snr, (memory.last, here, memory.one_before))
        noisy = jnp.where(has_past[:, None, None, None], corrected, noisy)
        last = memory.last._replace(log_snr=jnp.where(is_clean(next_log_snr), FAR_LOG_SNR, memory.last.log_snr))
        return integrate(noisy, log_snr, next_log_snr, (here, last)), History(noisy, here, memory.last)

    return StepRule("UniPC", init, step)


def integrate(noisy: Images, log_snr: PerExample, next_log_snr: PerExample, answers: tuple[Evaluation, ...]) -> Images:
    """Equation (1) with the polynomial through two or three answers, the first of them at ``log_snr``."""
    second = (answers[1].log_snr - log_snr) / 2.0
    # Newton's divided differences; with u₁ = 0 their polynomials are 1, u and u (u - u₂).
    slope = (answers[1].image - answers[0].image) / for_images(second)
    constant, linear, quadratic = exponential_moments((next_log_snr - log_snr) / 2.0)
    whole = for_images(constant) * answers[0].image + for_images(linear) * slope
    if len(answers) == 3:
        third = (answers[2].log_snr - log_snr) / 2.0
        other_slope = (answers[2].image - answers[1].image) / for_images(third - second)
        curvature = (other_slope - slope) / for_images(third)
        whole = whole + for_images(quadratic - second * linear) * curvature
    _, sigma = signal_and_noise_scale(log_snr)
    next_alpha, next_sigma = signal_and_noise_scale(next_log_snr)
    return next_sigma / sigma * noisy + next_alpha * whole


def exponential_moments(height: PerExample) -> tuple[PerExample, PerExample, PerExample]:
    """∫₀^h e^(u-h) u^n du for n = 0, 1, 2, h ≥ 0.

    By parts M_n = h^n - n M_(n-1), which loses all digits where h is small; there the first terms of the series,
    h^(n+1) n! Σ_k (-h)^k / (n+1+k)!.
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
