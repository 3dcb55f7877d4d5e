r"""A noise schedule: the cosine schedule, shifted for images of another resolution.

Source: Hoogeboom et al. 2023, "simple diffusion", section 3.1. In a larger image, neighbouring pixels resemble each
other more, so the same noise hides less of it. If blocks of its pixels are averaged down to 64 px, the mean has less
noise. Its log-SNR is that of the cosine schedule if the log-SNR of the larger image is lower by 2 log(resolution / 64):

    λ(t) = -2 log tan(πt/2) + 2 log(64 / resolution)                                           (1)
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from imagen_jax.diffusion.schedules import LOG_SNR_LIMIT, Schedule


def shifted_cosine(resolution: int) -> Schedule:
    """Makes the schedule of equation (1) for images of ``resolution`` pixels."""

    def schedule(time: Float[Array, "..."]) -> Float[Array, "..."]:
        # The tangent stays finite, and both ends lie beyond the limit of log-SNRs.
        angle = jnp.clip(time * (np.pi / 2), 1e-7, np.pi / 2 - 1e-6)
        log_snr = -2.0 * jnp.log(resolution / 64 * jnp.tan(angle))
        return jnp.clip(log_snr, -LOG_SNR_LIMIT, LOG_SNR_LIMIT)

    return schedule
