r"""Spacings: the log-SNRs at which a sampler takes its steps.

    uniform     evenly spaced in time
    discrete    every n-th of 1000 steps, as diffusers spaces those of DeepFloyd IF
    both_ends   as many of 1000 steps, evenly spaced from the noisiest to the cleanest, as Karlo, GLIDE and ADM do
    sections    so many of each part of 1000 steps, as GLIDE's upsampler: "10,10,3,2,2", from clean to noisy
    log_snr     evenly spaced in λ (Lu et al. 2022, "DPM-Solver", section 3.4)
    karras      σ̃ = exp(-λ/2) evenly spaced in its seventh root (Karras et al. 2022, equation 5):

    σ̃_i = (σ̃_max^(1/ρ) + i/(n-1) (σ̃_min^(1/ρ) - σ̃_max^(1/ρ)))^ρ,   ρ = 7                      (1)

The last two start and end at the noise levels of Karras et al. 2022, table 1, σ̃ = 80 and 0.002, or at the schedule's
ends if it does not reach them. One more step then leads onto the clean image.
"""

from collections.abc import Callable, Sequence
from functools import partial

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

GLIDE_SECTIONS = "10,10,3,2,2"
"""The 27 steps of GLIDE's upsampler, and of unCLIP's first."""


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
    return of_discrete_steps(schedule, range(0, steps * (DISCRETE_STEPS // steps), DISCRETE_STEPS // steps)[::-1])


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


def steps_with_both_ends(steps: int) -> list[int]:
    """Returns the numbers ``round(i · 999 / (steps - 1))`` of discrete steps, from noisy to clean; 999 for one step.

    Raises:
        UserError: ``steps`` exceeds 1000.
    """
    if steps > DISCRETE_STEPS:
        raise UserError(f"there are {DISCRETE_STEPS} discrete steps, and not {steps}: set --steps to fewer")
    if steps == 1:
        return [DISCRETE_STEPS - 1]
    # As in Karlo and ADM, a half goes to the even number.
    return [round(number * (DISCRETE_STEPS - 1) / (steps - 1)) for number in reversed(range(steps))]


def space_with_both_ends(schedule: Schedule, steps: int) -> LogSnrs:
    """Returns the log-SNRs of ``steps_with_both_ends``, and of the clean image.

    unCLIP's second upsampler takes 15 steps whose numbers are not printed. We take these.

    Raises:
        UserError: ``steps`` exceeds 1000.
    """
    return of_discrete_steps(schedule, steps_with_both_ends(steps))


def steps_in_sections(steps: int, sections: str = GLIDE_SECTIONS) -> list[int]:
    """Returns the numbers of discrete steps in sections, from noisy to clean, as GLIDE's upsampler takes them.

    The 1000 steps are cut into equal sections. In each, the steps are evenly spaced with both ends. Step 997 replaces
    999, because DDIM's step from the noisiest level leaves artefacts (Nichol et al. 2021, "GLIDE", published code).

    Args:
        steps: the sum of ``sections``.
        sections: number of steps of each section, from clean to noisy, such as "10,10,3,2,2".

    Raises:
        UserError: the sections are no such list, do not sum to ``steps``, or are too few or too many for a section.
    """
    words = [word.strip() for word in sections.split(",")]
    if not all(word.isascii() and word.isdigit() for word in words):
        raise UserError(f"sections={sections!r} is no list of numbers of steps: give one such as {GLIDE_SECTIONS!r}")
    counts = [int(word) for word in words]
    if sum(counts) != steps:
        raise UserError(
            f"the sections {sections} have {sum(counts)} steps, and steps={steps}: set --steps={sum(counts)}, or "
            "another --spacing"
        )
    numbers: list[int] = []
    for index, count in enumerate(counts):
        first, end = (part * DISCRETE_STEPS // len(counts) for part in (index, index + 1))
        if not (2 if end == DISCRETE_STEPS else 1) <= count <= end - first - (2 if end == DISCRETE_STEPS else 0):
            raise UserError(
                f"section {index + 1} of {sections} can't take {count} of its {end - first} steps: give each section "
                "at least one step, and the last one two, and fewer than it has"
            )
        stride = (end - 1 - first) / max(count - 1, 1)
        numbers += [first + round(number * stride) for number in range(count)]
    return [DISCRETE_STEPS - 3, *numbers[-2::-1]]


def space_in_sections(schedule: Schedule, steps: int, sections: str = GLIDE_SECTIONS) -> LogSnrs:
    """Returns the log-SNRs of ``steps_in_sections``, and of the clean image.

    Raises:
        UserError: as ``steps_in_sections``.
    """
    return of_discrete_steps(schedule, steps_in_sections(steps, sections))


def of_discrete_steps(schedule: Schedule, numbers: Sequence[int]) -> LogSnrs:
    """Returns the log-SNRs of discrete steps, counted from 0, and of the clean image."""
    return schedule(jnp.append((jnp.asarray(numbers) + 1) / DISCRETE_STEPS, 0.0))


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
    "both_ends": space_with_both_ends,
    "sections": space_in_sections,
    "log_snr": space_in_log_snr,
    "karras": space_as_karras,
}
"""Allowed values of ``sampling.spacing``. "sections" also takes ``sampling.sections``."""


def choose_spacing(name: str, steps: int, sections: str) -> Spacing:
    """Returns a spacing that fits a number of steps, without computing the log-SNRs.

    Args:
        name: a key of ``SPACINGS``.
        steps: number of steps.
        sections: steps of each section, which "sections" takes.

    Raises:
        UserError: the spacing has no so many steps, see its function.
    """
    match name:
        case "discrete":
            check_discrete(steps)
        case "both_ends":
            steps_with_both_ends(steps)
        case "sections":
            steps_in_sections(steps, sections)
            return partial(space_in_sections, sections=sections)
    return SPACINGS[name]
