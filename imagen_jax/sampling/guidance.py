r"""Guidance: steers the estimate towards a text or a class.

Classifier-free guidance (Ho & Salimans 2022), in Imagen's convention (section 2.2):

    ε̃ = w ε(z, c) + (1 - w) ε(z)                                                               (1)

so w = 1 is no guidance, and w > 1 strengthens the text. Others write ε(z, c) + s (ε(z, c) - ε(z)); their s is w - 1.

Guidance interval (Kynkäänniemi et al. 2024, equation 6): guidance is applied only within an interval of noise levels.
At very high noise it reduces variety; at very low noise it costs time and hardly changes the images.

Classifier guidance (Dhariwal & Nichol 2021, algorithm 2): with the gradient of any log-probability of the noisy images,

    ε̃ = ε(z) - s σ ∇_z log p(y | z)   =>   x̃ = x̂ + s (σ²/α) ∇_z log p(y | z)                   (2)
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from imagen_jax.array_types import Denoiser, Estimate, PerExample, Samples
from imagen_jax.diffusion.process import signal_and_noise_scale
from imagen_jax.sampling.estimates import join_estimate, split_estimate

MAX_GUIDANCE = 1e4
"""Max guidance weight or scale. Above it, float32 is not precise enough."""


class Interval(NamedTuple):
    """The log-SNRs between which guidance is applied, ends included.

    Attributes:
        noisiest: the lower end.
        cleanest: the upper end.
    """

    noisiest: float
    cleanest: float


LogProbability = Callable[[Samples, PerExample], PerExample]
"""``log_probability(noisy, log_snr)``: the log-probability of the target, for each noisy sample."""


class ClassifierGuidance(NamedTuple):
    """How a classifier guides a stage.

    Attributes:
        log_probability: log-probability of the target; differentiable with respect to the noisy samples.
        scale: s of equation (2); 0 for no guidance.
        resolution: height and width of the images that the classifier takes.
        wanted: description of the target, for the images' metadata.
        trained_steps: training steps of the classifier; None if this package did not train it.
    """

    log_probability: LogProbability
    scale: float
    resolution: int
    wanted: str
    trained_steps: int | None = None

    def describe(self) -> str:
        """Returns a description for the images' metadata, so that images with different guidance differ in it."""
        trained = "" if self.trained_steps is None else f" after {self.trained_steps} steps of training"
        return f"a classifier's {self.scale:g} towards {self.wanted}{trained}"


def guide(conditional: Denoiser, unconditional: Denoiser, weight: float) -> Denoiser:
    """Makes the guided denoiser of equation (1), applied to the clean sample, which is equivalent (see ``process.py``).

    If the network learns its variance, the conditional estimate's variance is kept.

    Args:
        conditional: denoiser with the text.
        unconditional: the same denoiser with the null text or a negative prompt.
        weight: w; 1 for no guidance, and then the unconditional denoiser is not run.
    """
    if weight == 1.0:
        return conditional

    def denoise(noisy: Samples, log_snr: PerExample) -> Estimate:
        return combine_estimates(conditional(noisy, log_snr), unconditional(noisy, log_snr), weight)

    return denoise


def guide_batched(both: Denoiser, weight: float) -> Denoiser:
    """Makes the guided denoiser of equation (1) from one denoiser of twice the batch size.

    The first half of its batch has the texts, the second half the null text or a negative prompt. One call replaces
    two: this is faster if a batch does not fill the device, and takes more memory.
    """

    def denoise(noisy: Samples, log_snr: PerExample) -> Estimate:
        estimate = both(jnp.concatenate([noisy, noisy]), jnp.concatenate([log_snr, log_snr]))
        count = noisy.shape[0]
        with_text = jax.tree.map(lambda array: array[:count], estimate)
        without_text = jax.tree.map(lambda array: array[count:], estimate)
        return combine_estimates(with_text, without_text, weight)

    return denoise


def combine_estimates(with_text: Estimate, without_text: Estimate, weight: float) -> Estimate:
    """Combines two estimates by equation (1); the variance is that of ``with_text``."""
    clean, gamma = split_estimate(with_text)
    other, _ = split_estimate(without_text)
    return join_estimate(weight * clean + (1.0 - weight) * other, gamma)


def limit_to_interval(interval: Interval | None, guided: Denoiser, plain: Denoiser) -> Denoiser:
    """Makes a denoiser that runs ``guided`` within an interval of log-SNRs and ``plain`` outside it.

    Args:
        interval: log-SNRs with guidance; None for all.
        guided: denoiser within the interval.
        plain: denoiser outside the interval.
    """
    if interval is None:
        return guided

    def denoise(noisy: Samples, log_snr: PerExample) -> Estimate:
        # In sampling, all examples of a batch have the same log-SNR.
        is_within = (interval.noisiest <= log_snr[0]) & (log_snr[0] <= interval.cleanest)
        return jax.lax.cond(is_within, guided, plain, noisy, log_snr)

    return denoise


def guide_by_classifier(denoise: Denoiser, classifier: ClassifierGuidance | None) -> Denoiser:
    """Makes the guided denoiser of equation (2).

    Args:
        denoise: any denoiser.
        classifier: the guidance; with None or a scale of 0 there is none, and the classifier is not run.
    """
    if classifier is None or classifier.scale == 0.0:
        return denoise
    log_probability, scale = classifier.log_probability, classifier.scale

    def guided(noisy: Samples, log_snr: PerExample) -> Estimate:
        clean, gamma = split_estimate(denoise(noisy, log_snr))
        # Each log-probability depends on one sample only, so the gradient of the sum contains the gradient of each.
        gradient = jax.grad(lambda samples: log_probability(samples, log_snr).sum())(noisy)
        alpha, sigma = signal_and_noise_scale(log_snr, noisy)
        return join_estimate(clean + scale * jnp.square(sigma) / alpha * gradient, gamma)

    return guided
