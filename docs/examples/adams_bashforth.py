r"""A sampler: the Adams–Bashforth method of order 2, on the ODE of Karras et al. 2022 (equation 1).

In y = z/α and σ̃ = σ/α, that ODE is dy/dσ̃ = ε̂. Euler's method, which takes ε̂ at the start of a step, is DDIM.
Adams–Bashforth takes the slope at the middle of the step, on the line through ε̂ of this step and of the last one:

    y_s = y_t + h (ε̂ + h/(2h₋) (ε̂ - ε̂₋)),    h = σ̃_s - σ̃_t,    h₋ the step before                (1)
"""

from typing import NamedTuple

import jax.numpy as jnp

from imagen_jax.array_types import Samples
from imagen_jax.diffusion.process import expand, noise_from_clean, signal_and_noise_scale
from imagen_jax.sampling.estimates import split_estimate
from imagen_jax.sampling.step_rules import StepRule


class LastSlope(NamedTuple):
    """What a step remembers for the next one.

    Attributes:
        noise: the estimated noise ε̂, in the shape of the samples.
        ratio: σ̃ of that step, ``(batch, 1, …)``; infinite before the first.
    """

    noise: Samples
    ratio: Samples


def start(noisy: Samples) -> LastSlope:
    """Returns the memory before the first step, in which no slope has weight."""
    return LastSlope(jnp.zeros_like(noisy), expand(jnp.full(len(noisy), jnp.inf), noisy))


def adams_bashforth() -> StepRule:
    """Makes the rule of equation (1): deterministic, one denoiser call a step."""

    def step(denoise, noisy, log_snr, next_log_snr, noise, memory):
        clean, _ = split_estimate(denoise(noisy, log_snr))
        slope = noise_from_clean(clean, noisy, log_snr)
        alpha, sigma = signal_and_noise_scale(log_snr, noisy)
        next_alpha, next_sigma = signal_and_noise_scale(next_log_snr, noisy)
        ratio = sigma / alpha
        height = next_sigma / next_alpha - ratio
        bend = height / (2.0 * (ratio - memory.ratio)) * (slope - memory.noise)
        ddim_step = next_alpha * clean + next_sigma * slope
        return ddim_step + next_alpha * height * bend, LastSlope(slope, ratio)

    return StepRule("Adams-Bashforth (order 2)", start, step)
