"""The networks, in Flax Linen: everything that has parameters and denoises.

    noisy image, log-SNR, text, low-resolution image -> conditioning (one embedding, one token sequence)
    -> U-Net or Efficient U-Net (blocks, attention, layers) -> output shaped like the image

``convolutions`` and ``attending`` (as the device at hand computes them fastest), ``layers`` (normalisation, up and
down), ``attention`` (self-attention with text in its keys, cross-attention), ``conditioning`` (time, pooled text,
low-resolution image), ``blocks`` (residual block), ``equal_blocks`` (several of them as one loop), ``remat`` (what is
computed again for the gradient), ``unet`` (ADM, Imagen's base), ``efficient_unet`` (Imagen's super-resolution stages),
``deepfloyd_unet`` (DeepFloyd IF's), ``noise_classifier`` (for guidance). ``deepfloyd_weights`` says which tensor of
IF's files is which parameter. ``NETWORKS`` names the denoising ones for configs.
"""

import flax.linen as nn

from imagen_jax.models.deepfloyd_unet import DeepFloydUNet
from imagen_jax.models.efficient_unet import EfficientUNet
from imagen_jax.models.unet import UNet

Network = nn.Module
"""A network: ``init(key, noisy, log_snr, text, …)`` and ``apply({"params": params}, noisy, log_snr, text, …)``."""

NETWORKS: dict[str, type[Network]] = {
    "unet": UNet,
    "efficient_unet": EfficientUNet,
    "deepfloyd_unet": DeepFloydUNet,
}
