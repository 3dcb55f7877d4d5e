r"""The training objective: how far the network's output is from its target, at a random time.

    L = E_{t ~ U(0,1), ε ~ N(0,I)}  w(λ_t) · mean (output(z_t, λ_t) - target(x, ε, λ_t))²        (1)

Imagen predicts ε and weighs every time alike, w = 1 ("uniform"). Min-SNR (Hang et al. 2023, equation 6) caps the weight
that easy, nearly clean inputs have: in terms of the error of the clean image, w_x = min(SNR, γ). In the space of the
network's own output that is w_x divided by ``Prediction.image_error_weight``: min(SNR, γ)/SNR for ε.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from imagen_jax.array_types import Images, PerExample, RandomKey, Scalar
from imagen_jax.diffusion.process import Prediction, add_noise
from imagen_jax.diffusion.schedules import Schedule

Predict = Callable[[Images, PerExample], Images]
"""``predict(noisy, log_snr) -> output``: the network with everything else it wants already bound."""

Weighting = Callable[[PerExample, Prediction], PerExample]
"""``weighting(log_snr, prediction) -> (batch,)``: the w of equation (1)."""


def uniform_weighting(log_snr: PerExample, prediction: Prediction) -> PerExample:
    """Weighs each time alike, in the space of the network's output: Imagen's choice."""
    return jnp.ones_like(log_snr)


def min_snr_weighting(gamma: float) -> Weighting:
    """Makes the min-SNR-γ weighting (Hang et al. 2023); γ = 5 is their recommendation."""

    def weigh(log_snr: PerExample, prediction: Prediction) -> PerExample:
        return jnp.minimum(jnp.exp(log_snr), gamma) / prediction.image_error_weight(log_snr)

    return weigh


def draw_times(key: RandomKey, batch: int, stratified: bool = False, exponent: float = 1.0) -> PerExample:
    """Draws a time in [0, 1) for each example: ``u^(1/exponent)``, with u uniform.

    Args:
        key: random key.
        batch: how many.
        stratified: spread one draw evenly over the batch, which lowers the variance of the loss (Kingma et al. 2021,
            appendix I.1); each single u is still uniform. Imagen draws independently (False).
        exponent: k of the density k·t^(k-1). Imagen draws uniformly (1). Above it, more of the training goes where
            noise has left nothing and the text alone can tell what the picture is: of all times, 10% lie above 0.9 at
            k = 1 and 27% at k = 3.
    """
    if stratified:
        uniform = (jax.random.uniform(key, ()) + jnp.arange(batch) / batch) % 1.0
    else:
        uniform = jax.random.uniform(key, (batch,))
    return uniform ** (1.0 / exponent)


def denoising_loss(
    predict: Predict,
    image: Images,
    key: RandomKey,
    *,
    schedule: Schedule,
    prediction: Prediction,
    weighting: Weighting = uniform_weighting,
    stratified_times: bool = False,
    time_exponent: float = 1.0,
) -> Scalar:
    """The loss of one batch. Equation (1).

    Args:
        predict: the network, see ``Predict``.
        image: clean images in [-1, 1].
        key: makes times and noise; the two get keys of their own.
        schedule: time to log-SNR.
        prediction: what ``predict`` outputs.
        weighting: see ``Weighting``.
        stratified_times: see ``draw_times``.
        time_exponent: see ``draw_times``.
    """
    time_key, noise_key = jax.random.split(key)
    log_snr = schedule(draw_times(time_key, image.shape[0], stratified_times, time_exponent))
    noise = jax.random.normal(noise_key, image.shape)
    output = predict(add_noise(image, noise, log_snr), log_snr)
    error = jnp.mean(jnp.square(output - prediction.target(image, noise, log_snr)), axis=(1, 2, 3))
    return jnp.mean(weighting(log_snr, prediction) * error)
