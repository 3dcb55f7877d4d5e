"""The reverse process as one ``lax.scan``: a few hundred steps, compiled once."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from imagen_jax.array_types import Denoiser, Images, Keys
from imagen_jax.diffusion.schedules import Schedule
from imagen_jax.errors import UserError
from imagen_jax.sampling.step_rules import StepRule

LogSnrs = Float[Array, " knots"]

DISCRETE_STEPS = 1000

Spread = Callable[[Schedule, int], LogSnrs]
"""``spread(schedule, steps)``: the ``steps + 1`` log-SNRs that a sampler walks through, from noise to clean."""

OnStep = Callable[[Any], None]
"""Called on the host after each step with the step's number."""


def spread_uniformly(schedule: Schedule, steps: int) -> LogSnrs:
    """The log-SNRs at ``steps + 1`` times evenly spread from 1 (noise) to 0 (clean)."""
    return schedule(jnp.linspace(1.0, 0.0, steps + 1))


def spread_over_steps(schedule: Schedule, steps: int) -> LogSnrs:
    """The log-SNRs at every ``1000 // steps``-th of a discrete process's thousand steps, and of the clean image.

    The cleanest of the thousand is always among them. The noisiest is not, unless all are taken: sampling begins at the
    one of number ``(steps - 1) · (1000 // steps)``, as if it were pure noise ("leading" spacing, Lin et al. 2023, table
    2). Far from 999 that is a different process, and refused.

    Raises:
        UserError: more than a thousand steps, or so many that the first lies below 900.
    """
    first = (steps - 1) * (DISCRETE_STEPS // steps)
    if steps > DISCRETE_STEPS or (steps > 10 and first < 900):
        raise UserError(
            f"{steps} steps of a process of {DISCRETE_STEPS} would begin at number {first}, where there is less than "
            f"pure noise: take a number of --steps that divides {DISCRETE_STEPS}, such as 100 or 250"
        )
    numbers = jnp.arange(steps)[::-1] * (DISCRETE_STEPS // steps)
    return schedule(jnp.append((numbers + 1) / DISCRETE_STEPS, 0.0))


SPACINGS: dict[str, Spread] = {"uniform": spread_uniformly, "discrete": spread_over_steps}
"""What ``sampling.spacing`` may be."""


def fold_into_each(keys: Keys, number: int | Int[Array, ""]) -> Keys:
    """A new key from each key."""
    return jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, number)


def normal_for_each(keys: Keys, shape: tuple[int, ...]) -> Images:
    """Standard normal images, each from its own key."""
    return jax.vmap(lambda key: jax.random.normal(key, shape))(keys)


def sample(
    denoise: Denoiser,
    rule: StepRule,
    log_snrs: LogSnrs,
    keys: Keys,
    shape: tuple[int, int, int],
    on_step: OnStep | None = None,
) -> Images:
    """Draws images: noise at ``log_snrs[0]``, then one step of ``rule`` to each next log-SNR.

    Args:
        denoise: see ``Denoiser``; guided and thresholded as wished.
        rule: how a step goes, see ``step_rules``.
        log_snrs: ``(steps + 1,)``, increasing.
        keys: one for each example; an image depends on its own key alone.
        shape: height, width and channels of one image.
        on_step: called on the host after each step with the step's number, for a progress bar.

    Returns:
        ``(batch, *shape)``, as the last step left them: about [-1, 1], not clipped.
    """

    def take_step(carry, step):
        noisy, memory = carry
        number, log_snr, next_log_snr = step
        noise = normal_for_each(fold_into_each(keys, number + 1), shape)
        batch = noisy.shape[0]
        noisy, memory = rule.step(
            denoise, noisy, jnp.full((batch,), log_snr), jnp.full((batch,), next_log_snr), noise, memory
        )
        if on_step is not None:
            jax.debug.callback(on_step, number)
        return (noisy, memory), None

    noisy = normal_for_each(fold_into_each(keys, 0), shape)
    steps = (jnp.arange(log_snrs.shape[0] - 1), log_snrs[:-1], log_snrs[1:])
    (noisy, _), _ = jax.lax.scan(take_step, (noisy, rule.init(noisy)), steps)
    return noisy
