r"""Guidance: leading the estimate towards what is wanted.

Classifier-free (Ho & Salimans 2022), in Imagen's convention (section 2.2):

    ε̃ = w ε(z, c) + (1 - w) ε(z)                                                               (1)

so w = 1 is no guidance, and w > 1 strengthens the text. Others write ε(z, c) + s (ε(z, c) - ε(z)); their s is w - 1.

Within an interval of noise levels only (Kynkäänniemi et al. 2024, equation 6): where there is hardly anything but noise
guidance costs variety, and where there is hardly any it changes nothing but the time.

By a classifier (Dhariwal & Nichol 2021, algorithm 2): with the gradient of any log-probability of the noisy images,

    ε̃ = ε(z) - s σ ∇_z log p(y | z)   =>   x̃ = x̂ + s (σ²/α) ∇_z log p(y | z)                   (2)
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from imagen_jax.array_types import Denoiser, Estimate, Images, PerExample
from imagen_jax.diffusion.process import signal_and_noise_scale
from imagen_jax.sampling.estimates import join_estimate, split_estimate

MAX_GUIDANCE = 1e4
"""Of a weight or a scale; beyond it float32 has no digits left for the pictures."""


class Interval(NamedTuple):
    """Log-SNRs between which guidance is applied, ends included.

    Attributes:
        noisiest: the lower end.
        cleanest: the upper end.
    """

    noisiest: float
    cleanest: float


LogProbability = Callable[[Images, PerExample], PerExample]
"""``log_probability(noisy, log_snr)``: of what is wanted, for each of some noisy images."""


class ClassifierGuidance(NamedTuple):
    """Where a classifier leads a stage.

    Attributes:
        log_probability: of what is wanted; differentiable in the images.
        scale: s of equation (2); 0 for no guidance.
        resolution: height and width of the images that it knows.
        wanted: in words, for the pictures' metadata.
        trained_steps: of what gives the log-probability; None where it was not trained by us.
    """

    log_probability: LogProbability
    scale: float
    resolution: int
    wanted: str
    trained_steps: int | None = None

    def describe(self) -> str:
        """In words, so that pictures which differ by it have other metadata."""
        trained = "" if self.trained_steps is None else f" after {self.trained_steps} steps of training"
        return f"a classifier's {self.scale:g} towards {self.wanted}{trained}"


def guide(conditional: Denoiser, unconditional: Denoiser, weight: float) -> Denoiser:
    """Makes the guided denoiser of equation (1), stated for the clean image, which is the same (see ``process.py``).

    Where the network learns its variance, that of the conditional estimate is kept.

    Args:
        conditional: denoiser that knows the text.
        unconditional: the same with the null text.
        weight: w, 1 for no guidance; then the unconditional denoiser is never run.
    """
    if weight == 1.0:
        return conditional

    def denoise(noisy: Images, log_snr: PerExample) -> Estimate:
        return combine_estimates(conditional(noisy, log_snr), unconditional(noisy, log_snr), weight)

    return denoise


def guide_batched(both: Denoiser, weight: float) -> Denoiser:
    """Makes the same of one denoiser that knows the texts in its batch's first half and the null text in the second.

    One call of twice the batch instead of two: faster where a batch does not fill the device, in more memory.
    """

    def denoise(noisy: Images, log_snr: PerExample) -> Estimate:
        estimate = both(jnp.concatenate([noisy, noisy]), jnp.concatenate([log_snr, log_snr]))
        count = noisy.shape[0]
        with_text = jax.tree.map(lambda array: array[:count], estimate)
        without_text = jax.tree.map(lambda array: array[count:], estimate)
        return combine_estimates(with_text, without_text, weight)

    return denoise


def combine_estimates(with_text: Estimate, without_text: Estimate, weight: float) -> Estimate:
    """Equation (1) of two estimates."""
    image, gamma = split_estimate(with_text)
    other, _ = split_estimate(without_text)
    return join_estimate(weight * image + (1.0 - weight) * other, gamma)


def limit_to_interval(interval: Interval | None, guided: Denoiser, plain: Denoiser) -> Denoiser:
    """Makes a denoiser that is guided within an interval; elsewhere only the plain one is run.

    Args:
        interval: None for everywhere.
        guided: asked within it.
        plain: asked without.
    """
    if interval is None:
        return guided

    def denoise(noisy: Images, log_snr: PerExample) -> Estimate:
        # A sampler's log-SNR is one for the whole batch.
        is_within = (interval.noisiest <= log_snr[0]) & (log_snr[0] <= interval.cleanest)
        return jax.lax.cond(is_within, guided, plain, noisy, log_snr)

    return denoise


def guide_by_classifier(denoise: Denoiser, classifier: ClassifierGuidance | None) -> Denoiser:
    """Makes the guided denoiser of equation (2).

    Args:
        denoise: any denoiser.
        classifier: what leads it; None, or a scale of 0: nothing, and the classifier is never run.
    """
    if classifier is None or classifier.scale == 0.0:
        return denoise
    log_probability, scale = classifier.log_probability, classifier.scale

    def guided(noisy: Images, log_snr: PerExample) -> Estimate:
        image, gamma = split_estimate(denoise(noisy, log_snr))
        # Images of a batch do not see each other, so the gradient of the sum is that of each.
        gradient = jax.grad(lambda images: log_probability(images, log_snr).sum())(noisy)
        alpha, sigma = signal_and_noise_scale(log_snr)
        return join_estimate(image + scale * jnp.square(sigma) / alpha * gradient, gamma)

    return guided
