r"""Edits: sampling that starts from an image, or keeps a part of one.

Image to image (SDEdit, Meng et al. 2022, section 3.2): the image is noised to a level, and only the steps from that
level on are taken (``end_of_trajectory``).

Inpainting: at every step the known pixels replace those of the clean image's estimate (``keep_known``),

    x̂ ← m x_known + (1 - m) x̂                                                                  (1)

so every step rule preserves them to the end, and the rest is sampled to match. It matches better if the sampler
sometimes adds noise again and repeats the steps (RePaint, Lugmayr et al. 2022, algorithm 1, which inserts the noised
known part into z_t instead). ``resample`` adds these repetitions to the trajectory of log-SNRs.

Inversion (Song et al. 2021, section 4.3): DDIM in reverse, from the image to its noise. Each reverse step needs the
estimate at the noisier end, which is only known afterwards,

    z_t = (α_t/α_s) z_s + (σ_t - α_t σ_s/α_s) ε̂(z_t, λ_t)                                        (2)

so it is solved by fixed-point iteration (Pan et al. 2023, "AIDI"). DDIM along the same steps then reproduces the image
to within rounding. The common single pass, with ε̂(z_s), reproduces it only approximately.

Among noise, where α_s < σ_s, the iteration of (2) hardly converges, for ε̂ follows z_t itself there. So from the second
pass on, the same equation is iterated there in the form whose estimate hardly depends on z_t,

    z_t = (σ_t/σ_s) z_s + (α_t - σ_t α_s/σ_s) x̂(z_t, λ_t)                                        (3)
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from imagen_jax.array_types import Denoiser, Estimate, PerExample, Samples
from imagen_jax.diffusion.process import check_same_shape, expand, noise_from_clean, signal_and_noise_scale
from imagen_jax.errors import UserError
from imagen_jax.sampling.estimates import join_estimate, split_estimate
from imagen_jax.sampling.spacings import LogSnrs

Trajectory = Float[Array, " row"]

MakeTrajectory = Callable[[LogSnrs], Trajectory]
"""``make_trajectory(log_snrs)``: makes the sampler's trajectory from the log-SNRs of its spacing."""


class Known(NamedTuple):
    """The parts of the samples that must be kept.

    Attributes:
        clean: clean samples.
        mask: 1 where values are kept, 0 where they are sampled.
    """

    clean: Samples
    mask: Samples


def full_trajectory(log_snrs: LogSnrs) -> LogSnrs:
    """Returns the trajectory of all steps."""
    return log_snrs


def end_of_trajectory(strength: float) -> MakeTrajectory:
    """Makes the function that keeps only the last steps of a trajectory.

    Args:
        strength: fraction of the steps to take, in (0, 1]; at least one step is taken.

    Raises:
        UserError: ``strength`` is outside (0, 1].
    """
    if not 0.0 < strength <= 1.0:
        raise UserError(
            f"strength {strength:g} is out of range: set it above 0 (nothing changes) and at most 1 (nothing is kept)"
        )

    def make_trajectory(log_snrs: LogSnrs) -> Trajectory:
        steps = max(1, round(strength * (log_snrs.shape[0] - 1)))
        return log_snrs[-steps - 1 :]

    return make_trajectory


def resample(times: int, stride: int = 10) -> MakeTrajectory:
    """Makes the function that repeats each group of steps in a trajectory (RePaint's resampling).

    Args:
        times: number of times each group is taken, at least 1.
        stride: number of steps in a group, at least 1.

    Raises:
        UserError: ``times`` or ``stride`` is below 1.
    """
    if times < 1 or stride < 1:
        raise UserError(f"groups of {stride} steps can't be taken {times} times: set both numbers to 1 or more")

    def make_trajectory(log_snrs: LogSnrs) -> Trajectory:
        last = log_snrs.shape[0] - 1
        indices = [0]
        for first in range(0, last, stride):
            stretch = list(range(first + 1, min(first + stride, last) + 1))
            # The last step ends on the clean image, from which the sampler can't go back; so it is taken only once.
            repeated = stretch if stretch[-1] < last else stretch[:-1]
            if repeated:
                indices += (times - 1) * [*repeated, first]
            indices += stretch
        return log_snrs[jnp.asarray(indices)]

    return make_trajectory


def keep_known(denoise: Denoiser, known: Known) -> Denoiser:
    """Makes a denoiser whose estimate contains the known pixels. Equation (1)."""

    def denoise_with_known(noisy: Samples, log_snr: PerExample) -> Estimate:
        clean, gamma = split_estimate(denoise(noisy, log_snr))
        return join_estimate(known.mask * known.clean + (1.0 - known.mask) * clean, gamma)

    return denoise_with_known


def invert(denoise: Denoiser, log_snrs: LogSnrs, clean: Samples, iterations: int = 10) -> Samples:
    """Returns the noise from which ``ddim()`` reproduces the given samples along the same log-SNRs. Equations (2), (3).

    Args:
        denoise: the denoiser, see ``Denoiser``.
        log_snrs: ``(steps + 1,)``, increasing, as for ``sample``.
        clean: clean samples, such as images in [-1, 1].
        iterations: fixed-point iterations per step; 1 is the common inversion.

    Returns:
        Noisy samples at ``log_snrs[0]``, for the argument ``start`` of ``sample``.
    """

    def step_back(cleaner: Samples, pair: tuple[jax.Array, jax.Array]) -> tuple[Samples, None]:
        here, there = (jnp.full((clean.shape[0],), one) for one in pair)
        alpha, sigma = signal_and_noise_scale(there, cleaner)
        cleaner_alpha, cleaner_sigma = signal_and_noise_scale(here, cleaner)

        # Where it is 0, equation (3) is not taken.
        divisor = jnp.maximum(cleaner_sigma, 1e-6)
        among_noise = cleaner_alpha < cleaner_sigma

        def improve(number: jax.Array, noisy: Samples) -> Samples:
            estimate = split_estimate(denoise(noisy, there))[0]
            noise = noise_from_clean(estimate, noisy, there)
            of_noise = alpha / cleaner_alpha * (cleaner - cleaner_sigma * noise) + sigma * noise
            of_clean = sigma / divisor * cleaner + (alpha - sigma * cleaner_alpha / divisor) * estimate
            return jnp.where(among_noise & (number > 0), of_clean, of_noise)

        # The initial guess for the noisier samples is the cleaner ones.
        return jax.lax.fori_loop(0, iterations, improve, cleaner), None

    pairs = (log_snrs[1:][::-1], log_snrs[:-1][::-1])
    noisy, _ = jax.lax.scan(step_back, clean, pairs)
    return noisy


def interpolate(first: Samples, second: Samples, share: PerExample) -> Samples:
    """Interpolates between two noises along the sphere that noise lies on (Song et al. 2021, appendix D.5).

    Args:
        first: standard normal noise.
        second: standard normal noise.
        share: interpolation weight of each example, from 0 (``first``) to 1 (``second``).
    """
    check_same_shape(first=first, second=second)
    axes = tuple(range(1, first.ndim))
    lengths = jnp.sqrt((first**2).sum(axes) * (second**2).sum(axes))
    angle = jnp.arccos(jnp.clip((first * second).sum(axes) / lengths, -1.0, 1.0))
    # The angle between equal noises is 0, and the formula would divide by its sine.
    safe = jnp.where(angle < 1e-4, 1.0, angle)
    near = jnp.where(angle < 1e-4, 1.0 - share, jnp.sin((1.0 - share) * safe) / jnp.sin(safe))
    far = jnp.where(angle < 1e-4, share, jnp.sin(share * safe) / jnp.sin(safe))
    return expand(near, first) * first + expand(far, second) * second
