"""Self-conditioning (Chen et al. 2022, "Analog Bits", section 2.2): the network sees its own estimate.

In training, each example gets an estimate with probability 1/2, and zeros otherwise. The network makes the estimate
from the same noisy image with zeros in its place, and no gradient flows through it. In sampling, a second pass makes
the estimate at each step, as in training. So a denoiser remains a function of the noisy image alone.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from imagen_jax.array_types import PerExample, RandomKey, Samples
from imagen_jax.diffusion.loss import Predict
from imagen_jax.diffusion.process import RANGE_OF_IMAGES, Prediction, ValueRange, clip_to_range, expand

PredictWithEstimate = Callable[[Samples, PerExample, Samples], Samples]
"""``predict(noisy, log_snr, estimate) -> output``; the estimate of the clean sample is zeros if there is none."""


def self_condition(
    predict: PredictWithEstimate, prediction: Prediction, value_range: ValueRange | None = RANGE_OF_IMAGES
) -> Predict:
    """Makes a two-pass network: the second pass sees the first one's estimate, clipped to the value range."""

    def predict_twice(noisy: Samples, log_snr: PerExample) -> Samples:
        first = prediction.to_clean(predict(noisy, log_snr, jnp.zeros_like(noisy)), noisy, log_snr)
        return predict(noisy, log_snr, clip_to_range(first, value_range))

    return predict_twice


def self_condition_for_training(
    predict: PredictWithEstimate,
    prediction: Prediction,
    key: RandomKey,
    value_range: ValueRange | None = RANGE_OF_IMAGES,
) -> Predict:
    """Makes the network for training: each example sees an estimate with probability 1/2, and zeros otherwise."""

    def predict_half(noisy: Samples, log_snr: PerExample) -> Samples:
        first = prediction.to_clean(predict(noisy, log_snr, jnp.zeros_like(noisy)), noisy, log_snr)
        has_estimate = expand(jax.random.bernoulli(key, 0.5, noisy.shape[:1]), noisy)
        estimate = jnp.where(has_estimate, clip_to_range(first, value_range), 0.0)
        return predict(noisy, log_snr, jax.lax.stop_gradient(estimate))

    return predict_half
