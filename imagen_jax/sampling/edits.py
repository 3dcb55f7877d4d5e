r"""Edits: sampling that begins with a picture, or must keep a part of one.

Image to image (SDEdit, Meng et al. 2022, section 3.2): the picture is noised to a level, and only the steps from there
on are taken (``end_of_trajectory``).

Inpainting: what is known replaces the estimate of the clean image, at every step (``keep_known``),

    x̂ ← m x_known + (1 - m) x̂                                                                  (1)

so any rule carries it to the end as it is, and the rest is drawn to fit. It fits better when the sampler goes back now
and then and draws again (RePaint, Lugmayr et al. 2022, algorithm 1, which noises the known part instead of the
estimate): ``resample`` puts those returns into the row of log-SNRs.

Inversion (Song et al. 2021, section 4.3): DDIM walked from the picture to its noise. A step back asks for the estimate
at the noisier end, which is only known afterwards,

    z_t = (α_t/α_s) z_s + (σ_t - α_t σ_s/α_s) ε̂(z_t, λ_t)                                        (2)

so it is solved by fixed-point iteration (Pan et al. 2023, "AIDI"); then DDIM along the same steps gives the picture
back to within rounding, where one pass as it is commonly done, with ε̂(z_s), gives it about.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from imagen_jax.array_types import Denoiser, Estimate, Images, PerExample, Text
from imagen_jax.diffusion.process import noise_from_image, signal_and_noise_scale
from imagen_jax.errors import UserError
from imagen_jax.sampling.estimates import join_estimate, split_estimate
from imagen_jax.sampling.spacings import LogSnrs

Trajectory = Float[Array, " row"]

MakeTrajectory = Callable[[LogSnrs], Trajectory]
"""``walk(log_snrs)``: the row that a sampler takes, made of that of its spacing."""


class Known(NamedTuple):
    """What must be in the pictures.

    Attributes:
        image: the pictures, in [-1, 1].
        mask: 1 where they are to be kept, 0 where something is to be drawn.
    """

    image: Images
    mask: Images


def full_trajectory(log_snrs: LogSnrs) -> LogSnrs:
    """Takes all steps."""
    return log_snrs


def end_of_trajectory(strength: float) -> MakeTrajectory:
    """Makes the walk that takes the last steps only.

    Args:
        strength: share of the steps that is taken, above 0; 1 for all. At least one is.

    Raises:
        UserError: it is no such share.
    """
    if not 0.0 < strength <= 1.0:
        raise UserError(f"a strength lies above 0 (nothing changes) and up to 1 (nothing is kept), not at {strength:g}")

    def walk(log_snrs: LogSnrs) -> Trajectory:
        steps = max(1, round(strength * (log_snrs.shape[0] - 1)))
        return log_snrs[-steps - 1 :]

    return walk


def resample(times: int, stride: int = 10) -> MakeTrajectory:
    """Makes the walk that takes every stretch of steps several times.

    Args:
        times: how often each stretch is taken, at least 1.
        stride: steps in a stretch, at least 1.

    Raises:
        UserError: a number below 1.
    """
    if times < 1 or stride < 1:
        raise UserError(f"stretches of {stride} steps can't be taken {times} times: give at least 1 of each")

    def walk(log_snrs: LogSnrs) -> Trajectory:
        last = log_snrs.shape[0] - 1
        row = [0]
        for first in range(0, last, stride):
            stretch = list(range(first + 1, min(first + stride, last) + 1))
            # The last step ends on the clean image, whence there is no way back to one not so clean.
            again = stretch if stretch[-1] < last else stretch[:-1]
            if again:
                row += (times - 1) * [*again, first]
            row += stretch
        return log_snrs[jnp.asarray(row)]

    return walk


def keep_known(denoise: Denoiser, known: Known) -> Denoiser:
    """Makes a denoiser that knows a part of the picture. Equation (1)."""

    def knowing(noisy: Images, log_snr: PerExample) -> Estimate:
        image, gamma = split_estimate(denoise(noisy, log_snr))
        return join_estimate(known.mask * known.image + (1.0 - known.mask) * image, gamma)

    return knowing


def invert(denoise: Denoiser, log_snrs: LogSnrs, images: Images, iterations: int = 10) -> Images:
    """The noise from which ``ddim()`` draws the given images along the same log-SNRs. Equation (2).

    Args:
        denoise: see ``Denoiser``.
        log_snrs: ``(steps + 1,)``, increasing, as for ``sample``.
        images: clean, in [-1, 1].
        iterations: of the fixed point of each step; 1 is inversion as commonly done.

    Returns:
        Noisy images at ``log_snrs[0]``, for ``sample``'s ``start``.
    """

    def step_back(cleaner: Images, pair: tuple[jax.Array, jax.Array]) -> tuple[Images, None]:
        here, there = (jnp.full((images.shape[0],), one) for one in pair)
        alpha, sigma = signal_and_noise_scale(there)
        cleaner_alpha, cleaner_sigma = signal_and_noise_scale(here)

        def improve(_, noisy: Images) -> Images:
            noise = noise_from_image(split_estimate(denoise(noisy, there))[0], noisy, there)
            return alpha / cleaner_alpha * (cleaner - cleaner_sigma * noise) + sigma * noise

        # The first guess is the images at hand, taken for noisier ones.
        return jax.lax.fori_loop(0, iterations, improve, cleaner), None

    pairs = (log_snrs[1:][::-1], log_snrs[:-1][::-1])
    noisy, _ = jax.lax.scan(step_back, images, pairs)
    return noisy


def interpolate(first: Images, second: Images, share: PerExample) -> Images:
    """Noise on the way from one to another, along the sphere that noise lies on (Song et al. 2021, appendix D.5).

    Args:
        first: standard normal.
        second: standard normal.
        share: of the way, 0 for the first and 1 for the second.
    """
    axes = (1, 2, 3)
    lengths = jnp.sqrt((first**2).sum(axes) * (second**2).sum(axes))
    angle = jnp.arccos(jnp.clip((first * second).sum(axes) / lengths, -1.0, 1.0))
    # Two equal noises have no angle between them.
    safe = jnp.where(angle < 1e-4, 1.0, angle)
    near = jnp.where(angle < 1e-4, 1.0 - share, jnp.sin((1.0 - share) * safe) / jnp.sin(safe))
    far = jnp.where(angle < 1e-4, share, jnp.sin(share * safe) / jnp.sin(safe))
    return near[:, None, None, None] * first + far[:, None, None, None] * second


def mix_texts(first: Text, second: Text, shares: PerExample) -> Text:
    """Texts on the way from one to another: token by token, where either has one."""
    share = shares[:, None, None]
    return Text((1.0 - share) * first.embeddings + share * second.embeddings, first.mask | second.mask)
