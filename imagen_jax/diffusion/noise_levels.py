r"""The distribution of the noise levels that training draws, as quantile functions: u ~ U(0, 1) -> log-SNR.

    times         t = u^(1/k), then the schedule: density k t^(k-1); Imagen's is uniform, k = 1
    logit_normal  t = sigmoid(m + s Φ⁻¹(u)), then the schedule (Esser et al. 2024, "Scaling rectified flow", eq. 19)
    log_normal    log σ̃ = m + s Φ⁻¹(u), λ = -2 log σ̃, whatever the schedule (Karras et al. 2022, table 1)

A quantile function also gives the density of the log-SNRs it draws, which a weighting may divide by,

    p(λ) = -1 / (dλ/du)                                                                         (1)
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from imagen_jax.array_types import PerExample
from imagen_jax.diffusion.schedules import LOG_SNR_LIMIT, Schedule

LevelOf = Callable[[PerExample], PerExample]
"""``level_of(u)``: the log-SNR at a quantile in [0, 1), falling as u rises."""


def times(schedule: Schedule, exponent: float = 1.0) -> LevelOf:
    """Draws times of the density k·t^(k-1).

    Args:
        schedule: function from time to log-SNR.
        exponent: k. Larger values train more on nearly pure noise, where only the text determines the image: 10% of all
            times lie above 0.9 at k = 1, and 27% at k = 3.
    """
    return lambda quantile: schedule(quantile ** (1.0 / exponent))


def normal(quantile: PerExample, mean: float, deviation: float) -> PerExample:
    """Returns the value of a normal distribution at a quantile."""
    # Float32 has no number between 0 and the smallest quantile that is drawn, and Φ⁻¹ is infinite at both ends.
    return mean + deviation * jax.scipy.special.ndtri(jnp.clip(quantile, 1e-7, 1.0 - 1e-7))


def logit_normal(schedule: Schedule, mean: float = 0.0, deviation: float = 1.0) -> LevelOf:
    """Draws times whose logit is normal, most of them in the middle; see the module docstring."""
    return lambda quantile: schedule(jax.nn.sigmoid(normal(quantile, mean, deviation)))


def log_normal(mean: float = -1.2, deviation: float = 1.2) -> LevelOf:
    """Draws noise levels σ̃ = σ/α whose logarithm is normal; the defaults are those of Karras et al. 2022."""
    return lambda quantile: jnp.clip(-2.0 * normal(quantile, mean, deviation), -LOG_SNR_LIMIT, LOG_SNR_LIMIT)


NOISE_LEVELS: dict[str, Callable[..., LevelOf]] = {
    "times": lambda schedule, exponent, **normal: times(schedule, exponent),
    "logit_normal": lambda schedule, exponent, **normal: logit_normal(schedule, **normal),
    "log_normal": lambda schedule, exponent, **normal: log_normal(**normal),
}
"""``NOISE_LEVELS[name](schedule, exponent, mean=…, deviation=…)``: allowed values of ``training.noise_levels``. Mean
and deviation may be left out."""


def density_of(level_of: LevelOf, quantile: PerExample) -> PerExample:
    """Returns the density of the log-SNRs at quantiles. Equation (1)."""
    _, slope = jax.jvp(level_of, (quantile,), (jnp.ones_like(quantile),))
    return 1.0 / jnp.maximum(-slope, 1e-6)
