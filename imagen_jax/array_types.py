"""Array types with named axes, shared by the whole package.

Every public function declares its shapes with these types. In the tests, jaxtyping and beartype check them at each
call. Axes with the same name in one signature must have equal sizes.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, UInt8

Samples = Float[Array, "batch _ ..."]
"""What is diffused: images, vectors ``(batch, d)``, or arrays of any rank of at least 2; the batch axis comes first.

Functions of two samples of different shapes raise ``ValueError``, see ``diffusion.process.check_same_shape``.
"""

Images = Float[Array, "batch height width channels"]
"""Images, NHWC, in [-1, 1] when clean."""

SmallImages = Float[Array, "batch low_height low_width channels"]
"""Images at a lower resolution, NHWC, for signatures that also take ``Images``."""

PerExample = Float[Array, " batch"]
"""One scalar per example, such as a log-SNR, a time, a weight or an augmentation level."""

Scalar = Float[Array, ""]
"""One number, such as a loss."""

Keys = Key[Array, " batch"]
"""One random key per example, so that an image never depends on the other examples in its batch."""

RandomKey = Key[Array, ""]
"""One random key, as of ``jax.random.key``."""

TokenIds = Int[Array, "batch tokens"]
"""Captions as the numbers of their tokens, padded to one length."""

TokenMask = Bool[Array, "batch tokens"]
"""True at tokens, False at padding."""

TextEmbeddings = Float[Array, "batch tokens text_width"]
"""Captions as one vector for each token."""

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
"""The compute dtypes that a config may choose, by name."""

HostImage = Float[np.ndarray, "height width 3"]
"""One image on the host, float32 in [-1, 1]."""

HostPixels = UInt8[np.ndarray, "height width 3"]
"""One image on the host as stored, uint8 in [0, 255]."""


class Text(NamedTuple):
    """Encoded captions: the frozen text encoder's output sequence and its padding mask.

    Attributes:
        embeddings: ``(batch, tokens, text_width)``; zero at padding positions.
        mask: ``(batch, tokens)``; True at tokens, False at padding.
    """

    embeddings: TextEmbeddings
    mask: TokenMask


class LowResolution(NamedTuple):
    """The condition of a super-resolution stage: the low-resolution image and its noise level.

    Attributes:
        image: low-resolution images ``(batch, low_height, low_width, channels)``, already noised to ``log_snr``.
        log_snr: noise level ``(batch,)``; None for images without noise: before augmentation, or for a network that is
            told no level. The network receives it as log-SNR or as the number of a discrete step; see
            ``cascade.stage_checks.NOISE_CONDITIONING``.
    """

    image: SmallImages
    log_snr: PerExample | None = None


class EstimateWithVariance(NamedTuple):
    """The output of a denoiser whose network learns its variance.

    Attributes:
        clean: estimate of the clean samples.
        gamma: interpolation weight between the bounds of the next step's variance, in the shape of ``clean``. The
            scale is logarithmic: 0 is the lower bound, 1 the upper bound (Nichol & Dhariwal 2021, equation 15).
    """

    clean: Samples
    gamma: Samples


Estimate = Samples | EstimateWithVariance

Denoiser = Callable[[Samples, PerExample], Estimate]
"""``denoise(noisy, log_snr) -> clean``: estimates the clean samples from noisy ones.

Samplers accept any such function: a network, with or without guidance and thresholding, or an oracle in a test.
"""
