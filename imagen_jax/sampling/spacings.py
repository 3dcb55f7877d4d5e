r"""Spacings: the log-SNRs at which a sampler takes its steps.

    uniform     evenly spaced in time
    discrete    every n-th of 1000 steps, as diffusers spaces those of DeepFloyd IF
    log_snr     evenly spaced in λ (Lu et al. 2022, "DPM-Solver", section 3.4)
    karras      σ̃ = exp(-λ/2) evenly spaced in its seventh root (Karras et al. 2022, equation 5):

    σ̃_i = (σ̃_max^(1/ρ) + i/(n-1) (σ̃_min^(1/ρ) - σ̃_max^(1/ρ)))^ρ,   ρ = 7                      (1)

The last two start and end at the noise levels of Karras et al. 2022, table 1, σ̃ = 80 and 0.002, or at the schedule's
ends if it does not reach them. One more step then leads onto the clean image.
"""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from imagen_jax.array_types import Scalar
from imagen_jax.diffusion.schedules import Schedule
from imagen_jax.errors import UserError

LogSnrs = Float[Array, " knots"]

Spacing = Callable[[Schedule, int], LogSnrs]
"""``space(schedule, steps)``: the ``steps + 1`` log-SNRs from noise to clean."""

DISCRETE_STEPS = 1000

NOISIEST = -2.0 * float(np.log(80.0))
CLEANEST = -2.0 * float(np.log(0.002))
"""``NOISIEST`` and ``CLEANEST``: the log-SNRs of σ̃ = 80 and σ̃ = 0.002."""

KARRAS_RHO = 7.0


def space_uniformly(schedule: Schedule, steps: int) -> LogSnrs:
    """Returns the log-SNRs at ``steps + 1`` times, evenly spaced from 1 (noise) to 0 (clean)."""
    return schedule(jnp.linspace(1.0, 0.0, steps + 1))


def space_over_steps(schedule: Schedule, steps: int) -> LogSnrs:
    """Returns the log-SNRs of every ``1000 // steps``-th of 1000 discrete steps, and of the clean image.

    The cleanest of the 1000 steps is always included. The noisiest is included only if all are: sampling starts at step
    ``(steps - 1) · (1000 // steps)``, as if it were pure noise ("leading" spacing, Lin et al. 2023, table 2). A start
    far below 999 would be a different process, so it is rejected.

    Raises:
        UserError: ``steps`` exceeds 1000, or is above 10 and the first step would lie below 900.
    """
    check_discrete(steps)
    numbers = jnp.arange(steps)[::-1] * (DISCRETE_STEPS // steps)
    return schedule(jnp.append((numbers + 1) / DISCRETE_STEPS, 0.0))


def check_discrete(steps: int) -> None:
    """Checks a number of steps for ``space_over_steps``, without computing the log-SNRs.

    Raises:
        UserError: ``steps`` exceeds 1000, or is above 10 and the first step would lie below 900.
    """
    first = (steps - 1) * (DISCRETE_STEPS // steps)
    if steps > DISCRETE_STEPS or (steps > 10 and first < 900):
        raise UserError(
            f"{steps} steps out of {DISCRETE_STEPS} would begin at step {first}, which is not pure noise: set --steps "
            "to "
            f"a divisor of {DISCRETE_STEPS}, such as 100 or 250"
        )


def space_in_log_snr(schedule: Schedule, steps: int) -> LogSnrs:
    """Returns ``steps`` evenly spaced log-SNRs, and that of the clean image."""
    noisiest, cleanest, clean = ends(schedule)
    return jnp.append(jnp.linspace(noisiest, cleanest, steps), clean)


def space_as_karras(schedule: Schedule, steps: int) -> LogSnrs:
    """Returns the log-SNRs of equation (1), and that of the clean image."""
    noisiest, cleanest, clean = ends(schedule)
    roots = jnp.linspace(jnp.exp(-noisiest / 2 / KARRAS_RHO), jnp.exp(-cleanest / 2 / KARRAS_RHO), steps)
    return jnp.append(-2.0 * KARRAS_RHO * jnp.log(roots), clean)


def ends(schedule: Schedule) -> tuple[Scalar, Scalar, Scalar]:
    """Returns the log-SNRs at the start, before the last step, and of the clean image."""
    noise, clean = schedule(jnp.asarray(1.0)), schedule(jnp.asarray(0.0))
    return jnp.maximum(noise, NOISIEST), jnp.minimum(clean, CLEANEST), clean


SPACINGS: dict[str, Spacing] = {
    "uniform": space_uniformly,
    "discrete": space_over_steps,
    "log_snr": space_in_log_snr,
    "karras": space_as_karras,
}
"""Allowed values of ``sampling.spacing``."""
