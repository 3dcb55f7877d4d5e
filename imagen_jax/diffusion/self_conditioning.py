"""Self-conditioning (Chen et al. 2022, "Analog Bits", section 2.2): the network sees its own estimate.

In training half of the examples get the estimate that the network makes of the same noisy image with no estimate
(zeros) at hand, without a gradient through it; the other half get zeros. In sampling we make that estimate anew at each
step, with a second pass, which is what was trained, and lets a denoiser stay a function of the noisy image alone.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from imagen_jax.array_types import Images, PerExample, RandomKey
from imagen_jax.diffusion.loss import Predict
from imagen_jax.diffusion.process import Prediction

PredictWithEstimate = Callable[[Images, PerExample, Images], Images]
"""``predict(noisy, log_snr, estimate) -> output``."""


def self_condition(predict: PredictWithEstimate, prediction: Prediction) -> Predict:
    """Makes a two-pass network: the second pass sees the first one's estimate, within [-1, 1]."""

    def predict_twice(noisy: Images, log_snr: PerExample) -> Images:
        first = prediction.to_image(predict(noisy, log_snr, jnp.zeros_like(noisy)), noisy, log_snr)
        return predict(noisy, log_snr, jnp.clip(first, -1.0, 1.0))

    return predict_twice


def self_condition_for_training(predict: PredictWithEstimate, prediction: Prediction, key: RandomKey) -> Predict:
    """Makes the network as trained: a random half of the examples see an estimate, the rest see zeros."""

    def predict_half(noisy: Images, log_snr: PerExample) -> Images:
        first = prediction.to_image(predict(noisy, log_snr, jnp.zeros_like(noisy)), noisy, log_snr)
        shown = jax.random.bernoulli(key, 0.5, (noisy.shape[0], 1, 1, 1))
        return predict(noisy, log_snr, jax.lax.stop_gradient(jnp.where(shown, jnp.clip(first, -1.0, 1.0), 0.0)))

    return predict_half
