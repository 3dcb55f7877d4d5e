"""One vocabulary of array shapes for the whole house.

Every public function declares its shapes with these names; in the tests jaxtyping and beartype check them at each
call. Axis names that recur within one signature must have equal sizes there.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, UInt8

Images = Float[Array, "batch height width channels"]
"""Images, NHWC, in [-1, 1] when clean."""

SmallImages = Float[Array, "batch low_height low_width channels"]
"""Images at the resolution below, beside ``Images`` in one signature."""

PerExample = Float[Array, " batch"]
"""One scalar for each example: a log-SNR, a time, a weight, an augmentation level."""

Scalar = Float[Array, ""]

Keys = Key[Array, " batch"]
"""One random key for each example, so that a picture never depends on its neighbours in the batch."""

RandomKey = Key[Array, ""]

TokenIds = Int[Array, "batch tokens"]
TokenMask = Bool[Array, "batch tokens"]
TextEmbeddings = Float[Array, "batch tokens text_width"]

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
"""The types a config may ask to compute in, by name."""

HostImage = Float[np.ndarray, "height width 3"]
"""One image on the host, float32 in [-1, 1]."""

HostPixels = UInt8[np.ndarray, "height width 3"]
"""One image on the host as stored: 0 to 255."""


class Text(NamedTuple):
    """Encoded captions: the frozen encoder's token sequence and which of its places hold tokens.

    Attributes:
        embeddings: ``(batch, tokens, text_width)``; padding places are zero.
        mask: ``(batch, tokens)``, True where there is a token.
    """

    embeddings: TextEmbeddings
    mask: TokenMask


class LowResolution(NamedTuple):
    """The condition of a super-resolution stage: the smaller image, and how noisy it is.

    Attributes:
        image: ``(batch, height, width, 3)`` at the low resolution, already noised to ``log_snr``.
        log_snr: ``(batch,)``; the network sees both (a network of discrete steps the step's number instead, see
            ``cascade.stage.NOISE_CONDITIONING``).
    """

    image: SmallImages
    log_snr: PerExample


class ImageWithVariance(NamedTuple):
    """What the denoiser of a network with a learned variance says.

    Attributes:
        image: estimate of the clean images.
        gamma: of the same shape; where the variance of the next step lies between its bounds, on a log scale: 0 at the
            smallest, 1 at the largest (Nichol & Dhariwal 2021, equation 15).
    """

    image: Images
    gamma: Images


Estimate = Images | ImageWithVariance

Denoiser = Callable[[Images, PerExample], Estimate]
"""``denoise(noisy, log_snr) -> clean``: the estimate of the clean images in noisy ones. The one hole that any network,
guided or thresholded or an oracle in a test, fits."""
