r"""Noise schedules: the log signal-to-noise ratio, which falls as time runs from 0 (clean) to 1 (noise).

The process is variance preserving, ``z_t = α_t x + σ_t ε`` with ``α² + σ² = 1``, so one number determines both scales:

    λ(t) = log(α_t² / σ_t²)                                                                    (1)

Cosine (Nichol & Dhariwal 2021, in the continuous form of Ho & Salimans 2022), used by Imagen's base and 64→256 stages:

    α_t = cos(πt/2)   =>   λ(t) = -2 log tan(πt/2)                                              (2)

Linear (Ho et al. 2020), used by Imagen's 256→1024 stage: β rises linearly from 1e-4 to 0.02 over 1000 steps and

    -log α²(k/1000) = -Σ_{i<=k} log(1 - β_i) =: c_k,   λ = -log(exp(c) - 1)                     (3)

Between the 1000 steps c is interpolated linearly; at the steps it is exact. Discrete-time models with a cosine schedule
(Nichol & Dhariwal 2021) have, with f(u) = cos²(π/2 · (u + 0.008)/1.008),

    β_i = min(1 - f(i/1000) / f((i-1)/1000), 0.999)                                             (4)

Flow matching goes along straight lines, α_t : σ_t = (1 - t) : t (``process``, equation 4), so

    λ(t) = 2 log((1 - t) / t)                                                                   (5)

At higher resolutions neighbouring pixels resemble each other, and the same noise hides less. The schedule for d × d px
is that for 64 × 64, shifted (Hoogeboom et al. 2023, "simple diffusion", section 3.1):

    λ_d(t) = λ_64(t) + 2 log(64 / d)                                                            (6)
"""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

LOG_SNR_LIMIT = 20.0
"""Log-SNRs are clipped to ±20, where the remaining noise (or signal) has a standard deviation of 4.5e-5."""

Schedule = Callable[[Float[Array, "..."]], Float[Array, "..."]]
"""``schedule(time) -> log_snr``: elementwise and decreasing, for time in [0, 1], within ±LOG_SNR_LIMIT."""


def cosine(time: Float[Array, "..."]) -> Float[Array, "..."]:
    """Returns the log-SNR of the cosine schedule at ``time`` in [0, 1]. Equation (2)."""
    # Clipping the angle, and not λ, limits λ to ±20 while all values and gradients stay finite.
    smallest_angle = np.arctan(np.exp(-LOG_SNR_LIMIT / 2))
    angle = jnp.clip(time * (np.pi / 2), smallest_angle, np.pi / 2 - smallest_angle)
    return -2.0 * jnp.log(jnp.tan(angle))


def flow(time: Float[Array, "..."]) -> Float[Array, "..."]:
    """Returns the log-SNR of flow matching at ``time`` in [0, 1]. Equation (5)."""
    smallest = 1.0 / (1.0 + np.exp(LOG_SNR_LIMIT / 2))
    time = jnp.clip(time, smallest, 1.0 - smallest)
    return jnp.clip(2.0 * (jnp.log1p(-time) - jnp.log(time)), -LOG_SNR_LIMIT, LOG_SNR_LIMIT)


def shifted(schedule: Schedule, resolution: int, trained_at: int = 64) -> Schedule:
    """Makes the schedule for another resolution, which ends where the schedule does. Equation (6).

    Args:
        schedule: the schedule at the resolution ``trained_at``.
        resolution: height and width of the images, in pixels.
        trained_at: height and width for which the schedule was made.
    """
    shift = 2.0 * np.log(trained_at / resolution)

    def shifted_schedule(time: Float[Array, "..."]) -> Float[Array, "..."]:
        # The ends stay: the sampler recognises the step onto the clean sample by its log-SNR.
        here = schedule(time)
        moved = jnp.clip(here + shift, -LOG_SNR_LIMIT, LOG_SNR_LIMIT)
        return jnp.where(time <= 0.0, here, jnp.where(time >= 1.0, jnp.minimum(here, moved), moved))

    return shifted_schedule


def from_betas(betas: Float[np.ndarray, " steps"]) -> Schedule:
    """Makes the continuous-time schedule of a discrete process. Equation (3).

    Args:
        betas: β of each step, in order, each in (0, 1): the fraction of the variance that the step replaces by noise.
    """
    knots = np.concatenate([[0.0], -np.cumsum(np.log1p(-betas))])
    times = np.linspace(0.0, 1.0, len(knots))

    def schedule(time: Float[Array, "..."]) -> Float[Array, "..."]:
        signal_loss = jnp.interp(time, times, knots)
        signal_loss = jnp.maximum(signal_loss, np.log1p(np.exp(-LOG_SNR_LIMIT)))
        return jnp.maximum(-jnp.log(jnp.expm1(signal_loss)), -LOG_SNR_LIMIT)

    return schedule


def discrete_cosine_betas(steps: int = 1000) -> Float[np.ndarray, " steps"]:
    """Returns the β of Nichol & Dhariwal 2021, section 3.2. Equation (4)."""
    angles = (np.linspace(0.0, 1.0, steps + 1) + 0.008) / 1.008 * (np.pi / 2)
    signal = np.cos(angles) ** 2
    return np.minimum(1.0 - signal[1:] / signal[:-1], 0.999)


linear = from_betas(np.linspace(1e-4, 0.02, 1000))
"""The 1000-step linear-β schedule. Equation (3)."""

discrete_cosine = from_betas(discrete_cosine_betas())
"""The 1000-step cosine schedule of discrete-time models such as DeepFloyd IF. Equation (4)."""

SCHEDULES: dict[str, Schedule] = {
    "cosine": cosine,
    "linear": linear,
    "discrete_cosine": discrete_cosine,
    "flow": flow,
}


def number_of_step(schedule: Schedule, steps: int = 1000) -> Callable[[Float[Array, " batch"]], Float[Array, " batch"]]:
    """Makes ``number(log_snr)``: the step of a discrete process with this log-SNR, counted from 0 (the cleanest).

    Networks of discrete-time models take this number as an input. Between two steps it is fractional. Log-SNRs beyond
    the first or the last step give the number of that step.
    """
    log_snrs = np.asarray(schedule(jnp.arange(1, steps + 1) / steps))

    def number(log_snr: Float[Array, " batch"]) -> Float[Array, " batch"]:
        return jnp.interp(log_snr, log_snrs[::-1], np.arange(steps)[::-1].astype(np.float32))

    return number
