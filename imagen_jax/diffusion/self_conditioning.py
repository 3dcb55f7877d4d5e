"""Self-conditioning (Chen et al. 2022, "Analog Bits", section 2.2): the network sees its own estimate.

In training, each example gets an estimate with probability 1/2, and zeros otherwise. The network makes the estimate
from the same noisy image with zeros in its place, and no gradient flows through it. In sampling, a second pass makes
the estimate at each step, as in training. So a denoiser remains a function of the noisy image alone.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from imagen_jax.array_types import Images, PerExample, RandomKey
from imagen_jax.diffusion.loss import Predict
from imagen_jax.diffusion.process import Prediction

PredictWithEstimate = Callable[[Images, PerExample, Images], Images]
"""``predict(noisy, log_snr, estimate) -> output``; the estimate of the clean image is zeros if there is none."""


def self_condition(predict: PredictWithEstimate, prediction: Prediction) -> Predict:
    """Makes a two-pass network: the second pass sees the first one's estimate, clipped to [-1, 1]."""

    def predict_twice(noisy: Images, log_snr: PerExample) -> Images:
        first = prediction.to_image(predict(noisy, log_snr, jnp.zeros_like(noisy)), noisy, log_snr)
        return predict(noisy, log_snr, jnp.clip(first, -1.0, 1.0))

    return predict_twice


def self_condition_for_training(predict: PredictWithEstimate, prediction: Prediction, key: RandomKey) -> Predict:
    """Makes the network for training: each example sees an estimate with probability 1/2, and zeros otherwise."""

    def predict_half(noisy: Images, log_snr: PerExample) -> Images:
        first = prediction.to_image(predict(noisy, log_snr, jnp.zeros_like(noisy)), noisy, log_snr)
        has_estimate = jax.random.bernoulli(key, 0.5, (noisy.shape[0], 1, 1, 1))
        return predict(noisy, log_snr, jax.lax.stop_gradient(jnp.where(has_estimate, jnp.clip(first, -1.0, 1.0), 0.0)))

    return predict_half
