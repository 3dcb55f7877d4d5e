"""The reverse process as one loop with any number of steps, compiled once.

    noise, or samples noised to a level -> one step of a rule after another, along a trajectory of log-SNRs -> samples

The bounds of the loop may be arrays, so that one compiled program can take any range of a trajectory's steps
(``cascade.stage_sampler.make_draw_stage``).

Where a trajectory goes back (its next log-SNR is not higher), the sampler adds noise instead and resets the rule's
memory. RePaint's resampling works this way, see ``edits``.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from imagen_jax.array_types import Denoiser, Estimate, Keys, PerExample, Samples
from imagen_jax.diffusion.process import check_same_shape, expand, signal_and_noise_scale
from imagen_jax.sampling.estimates import split_estimate
from imagen_jax.sampling.solvers import dpm_solver_2m, dpm_solver_2m_sde, heun, unipc
from imagen_jax.sampling.spacings import LogSnrs
from imagen_jax.sampling.step_rules import StepRule, ancestral, ddim, is_clean

OnStep = Callable[[int], None]
"""Called on the host after each step with the step's number."""

StepNumber = int | Int[np.ndarray, ""] | Int[Array, ""]

STEP_RULES: dict[str, Callable[[float, float], StepRule]] = {
    "ancestral": lambda gamma, eta: ancestral(gamma),
    "ddim": lambda gamma, eta: ddim(eta),
    "dpm_solver_2m": lambda gamma, eta: dpm_solver_2m(),
    "dpm_solver_2m_sde": lambda gamma, eta: dpm_solver_2m_sde(),
    "heun": lambda gamma, eta: heun(),
    "unipc": lambda gamma, eta: unipc(),
}
"""``STEP_RULES[name](gamma, eta)``; "ancestral" reads γ, "ddim" reads η."""


def fold_into_each(keys: Keys, number: int | Int[Array, ""]) -> Keys:
    """Derives a new key from each key and a number."""
    return jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, number)


def normal_for_each(keys: Keys, shape: tuple[int, ...]) -> Samples:
    """Draws standard normal samples of a shape, each from its own key."""
    return jax.vmap(lambda key: jax.random.normal(key, shape))(keys)


def add_more_noise(noisy: Samples, log_snr: PerExample, noisier_log_snr: PerExample, noise: Samples) -> Samples:
    """Noises samples from one log-SNR to a lower one by the forward process (Kingma et al. 2021, eq. 3)."""
    alpha, sigma = signal_and_noise_scale(log_snr, noisy)
    noisier_alpha, noisier_sigma = signal_and_noise_scale(noisier_log_snr, noisy)
    shrunk = noisier_alpha / alpha
    added = jnp.sqrt(jax.nn.relu(jnp.square(noisier_sigma) - jnp.square(shrunk * sigma)))
    return shrunk * noisy + added * noise


class SamplerState(NamedTuple):
    """The state of the sampler between two steps.

    Attributes:
        noisy: noisy samples.
        memory: the step rule's memory of earlier steps.
    """

    noisy: Samples
    memory: Any


def begin(rule: StepRule, keys: Keys, shape: tuple[int, ...], start: Samples | None = None) -> SamplerState:
    """Returns the state before the first step; the arguments are those of ``sample``."""
    begun = normal_for_each(fold_into_each(keys, 0), shape) if start is None else start
    return SamplerState(begun, rule.init(begun))


def take_steps(
    denoise: Denoiser,
    rule: StepRule,
    log_snrs: LogSnrs,
    keys: Keys,
    state: SamplerState,
    first: StepNumber,
    end: StepNumber,
) -> SamplerState:
    """Takes the steps ``first`` to ``end - 1`` from ``state``; other arguments as for ``sample``."""
    goes_back = bool((np.diff(np.asarray(log_snrs)) <= 0).any())
    trajectory = jnp.asarray(log_snrs)

    def checked(noisy: Samples, log_snr: PerExample) -> Estimate:
        estimate = denoise(noisy, log_snr)
        check_same_shape(noisy=noisy, **{"the denoiser's estimate": split_estimate(estimate)[0]})
        return estimate

    def take_step(number: Int[Array, ""], state: SamplerState) -> SamplerState:
        noisy, memory = state
        log_snr, next_log_snr = trajectory[number], trajectory[number + 1]
        noise = normal_for_each(fold_into_each(keys, number + 1), noisy.shape[1:])
        here, there = (jnp.full((noisy.shape[0],), one) for one in (log_snr, next_log_snr))
        # Noise of the last step would stay in the sample: no later step removes it.
        noise = jnp.where(expand(is_clean(there), noisy), 0.0, noise)

        def advance() -> SamplerState:
            return SamplerState(*rule.step(checked, noisy, here, there, noise, memory))

        def go_back() -> SamplerState:
            noisier = add_more_noise(noisy, here, there, noise)
            return SamplerState(noisier, rule.init(noisier))

        return jax.lax.cond(next_log_snr > log_snr, advance, go_back) if goes_back else advance()

    if isinstance(first, int) and isinstance(end, int):
        # With static bounds, compilers and FLOP counters see the number of steps of a scan.
        return jax.lax.scan(lambda state, number: (take_step(number, state), None), state, jnp.arange(first, end))[0]
    return jax.lax.fori_loop(first, end, take_step, state)


def sample(
    denoise: Denoiser,
    rule: StepRule,
    log_snrs: LogSnrs,
    keys: Keys,
    shape: tuple[int, ...],
    start: Samples | None = None,
) -> Samples:
    """Samples: starts from noise at ``log_snrs[0]`` and takes one step of ``rule`` to each next log-SNR.

    Args:
        denoise: the denoiser, already guided and thresholded, see ``Denoiser``.
        rule: step rule, see ``step_rules`` and ``solvers``.
        log_snrs: ``(steps + 1,)``, increasing, except where noise is added again.
        keys: one key for each sample, which depends on its own key alone.
        shape: shape of one sample, such as height, width and channels of an image.
        start: noisy samples at ``log_snrs[0]`` to start from; None for noise.

    Returns:
        ``(batch, *shape)`` in float32, as the last step returns them: not clipped.

    Raises:
        ValueError: the denoiser's estimate has another shape than the noisy samples.
    """
    begun = begin(rule, keys, shape, start)
    return take_steps(denoise, rule, log_snrs, keys, begun, 0, len(log_snrs) - 1).noisy
