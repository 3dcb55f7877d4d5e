"""The networks, in Flax Linen: all modules that have parameters and denoise.

    noisy image, log-SNR, text, low-resolution image -> conditioning (one embedding, one token sequence)
    -> U-Net or Efficient U-Net (blocks, attention, layers) -> output shaped like the image

``convolutions`` and ``attending`` choose the fastest algorithm for the device. ``layers`` has normalisation, upsampling
and downsampling. ``attention`` has self-attention with text in its keys, and cross-attention. ``conditioning`` embeds
the time, the pooled text and the low-resolution image. ``blocks`` has the residual block. ``equal_blocks`` runs several
equal blocks as one loop. ``remat`` selects the activations that the gradient recomputes.

``unet`` is ADM's network, Imagen's base. ``efficient_unet`` is that of Imagen's super-resolution stages.
``deepfloyd_unet`` is DeepFloyd IF's; ``weight_formats.deepfloyd_if`` reads its weights. ``noise_classifier`` is for
classifier guidance. ``NETWORKS`` maps the names in configs to the denoising networks.
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
