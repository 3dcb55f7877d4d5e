"""The networks, in Flax Linen: all modules that have parameters and denoise.

    noisy image, log-SNR, conditions -> conditioning (one embedding, one token sequence)
    -> U-Net or Efficient U-Net (blocks, attention, layers) -> output shaped like the image

``convolutions`` and ``attending`` choose the fastest algorithm for the device. ``layers`` has normalisation, upsampling
and downsampling. ``attention`` has self-attention with text in its keys, and cross-attention. ``conditioning`` embeds
the time and the conditions. ``blocks`` has the residual block. ``equal_blocks`` runs several
equal blocks as one loop. ``remat`` selects the activations that the gradient recomputes.

``unet`` is ADM's network, Imagen's base. ``efficient_unet`` is that of Imagen's super-resolution stages.
``deepfloyd_unet`` is DeepFloyd IF's; ``weight_formats.deepfloyd_if`` reads its weights. ``karlo_unet`` has
Karlo's; ``weight_formats.karlo`` reads their weights. ``prior`` is DALL·E 2's transformer, whose samples are vectors.
``noise_classifier`` is for classifier guidance. ``NETWORKS`` maps the names in configs to the denoising networks.

``code_prior`` is the one network that does not denoise: an autoregressive prior, on ``cached_transformer``.
"""

from typing import Protocol, runtime_checkable

import flax.linen as nn

from imagen_jax.array_types import PerExample, Samples
from imagen_jax.diffusion.conditions import UNCONDITIONAL, Conditions
from imagen_jax.models.deepfloyd_unet import DeepFloydUNet
from imagen_jax.models.efficient_unet import EfficientUNet
from imagen_jax.models.karlo_unet import KarloUNet, KarloUpsampler
from imagen_jax.models.prior import PriorTransformer
from imagen_jax.models.unet import UNet


@runtime_checkable
class Network(Protocol):
    """What a network must be: a Linen module whose call has this signature. It need not use the layers of this room.

    Its output has the shape of ``noisy``. If it also predicts a variance, it has twice the channels, and a field
    ``out_channels`` says so.
    """

    def __hash__(self) -> int:
        """Returns a hash, as of every Linen module whose fields have one."""
        ...

    def __call__(
        self,
        noisy: Samples,
        log_snr: PerExample,
        conditions: Conditions = UNCONDITIONAL,
        *,
        estimate: Samples | None = None,
        train: bool = False,
    ) -> Samples:
        """Returns the prediction, in float32.

        Args:
            noisy: z_t.
            log_snr: the log-SNR of each example, or the number of its step; see ``stage.noise_conditioning``.
            conditions: what the network is told.
            estimate: an earlier estimate of the clean sample, zeros for none; None without self-conditioning.
            train: whether dropout is on, which needs a "dropout" key.
        """
        ...


NETWORKS: dict[str, type[nn.Module]] = {
    "unet": UNet,
    "efficient_unet": EfficientUNet,
    "deepfloyd_unet": DeepFloydUNet,
    "prior": PriorTransformer,
    "karlo_unet": KarloUNet,
    "karlo_upsampler": KarloUpsampler,
}
