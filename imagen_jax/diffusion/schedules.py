r"""Noise schedules: how the log signal-to-noise ratio falls while time runs from 0 (clean) to 1 (noise).

The process is variance preserving, ``z_t = α_t x + σ_t ε`` with ``α² + σ² = 1``, so one number says it all:

    λ(t) = log(α_t² / σ_t²)                                                                    (1)

Cosine (Nichol & Dhariwal 2021, in the continuous form of Ho & Salimans 2022), used by Imagen's base and 64→256 stages:

    α_t = cos(πt/2)   =>   λ(t) = -2 log tan(πt/2)                                              (2)

Linear (Ho et al. 2020), used by Imagen's 256→1024 stage: β rises linearly from 1e-4 to 0.02 over 1000 steps and

    -log α²(k/1000) = -Σ_{i<=k} log(1 - β_i) =: c_k,   λ = -log(exp(c) - 1)                     (3)

Between the thousand knots c is interpolated linearly, which is exact at each of them.
"""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

LOG_SNR_LIMIT = 20.0
"""Log-SNRs stay within ±20: at that end the noise (or signal) left has a standard deviation of 4.5e-5."""

Schedule = Callable[[Float[Array, "..."]], Float[Array, "..."]]
"""``schedule(time) -> log_snr``, elementwise; time in [0, 1], decreasing, within ±LOG_SNR_LIMIT."""


def cosine(time: Float[Array, "..."]) -> Float[Array, "..."]:
    """Cosine schedule: log-SNR at ``time`` in [0, 1]. Equation (2)."""
    # Keeping the angle off 0 and π/2 clips λ to ±20 without a gradient or a value that is infinite.
    smallest_angle = np.arctan(np.exp(-LOG_SNR_LIMIT / 2))
    angle = jnp.clip(time * (np.pi / 2), smallest_angle, np.pi / 2 - smallest_angle)
    return -2.0 * jnp.log(jnp.tan(angle))


def linear(time: Float[Array, "..."]) -> Float[Array, "..."]:
    """The 1000-step linear-β schedule in continuous time: log-SNR at ``time`` in [0, 1]. Equation (3)."""
    betas = np.linspace(1e-4, 0.02, 1000, dtype=np.float64)
    knots = np.concatenate([[0.0], -np.cumsum(np.log1p(-betas))])
    lost_signal = jnp.interp(time, np.linspace(0.0, 1.0, 1001), knots)
    lost_signal = jnp.maximum(lost_signal, np.log1p(np.exp(-LOG_SNR_LIMIT)))
    return -jnp.log(jnp.expm1(lost_signal))


SCHEDULES: dict[str, Schedule] = {"cosine": cosine, "linear": linear}
