"""A classifier of noisy images, for classifier guidance: it predicts the class of the clean image."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from imagen_jax.array_types import Images, PerExample
from imagen_jax.models.blocks import ResidualBlock
from imagen_jax.models.conditioning import NoiseLevelEmbedding
from imagen_jax.models.layers import GroupNorm, convolution, dense, pixels_to_channels


class NoiseClassifier(nn.Module):
    """The downward half of a U-Net, then the mean over all pixels (Dhariwal & Nichol 2021, section 4).

    The paper pools by attention, but the mean is enough for small networks. All computations are in float32.

    Attributes:
        classes: the number of classes.
        channels: the width of each level. Each level after the first halves the height and width.
        blocks: the number of residual blocks per level.
        patch: the side of the blocks of pixels that are laid out as channels before the first convolution.
        dropout: the rate in the residual blocks, in [0, 1).
    """

    classes: int
    channels: tuple[int, ...]
    blocks: int = 1
    patch: int = 1
    dropout: float = 0.0

    @nn.compact
    def __call__(self, noisy: Images, log_snr: PerExample, train: bool = False) -> Float[Array, "batch classes"]:
        width = 4 * self.channels[0]
        embedding = NoiseLevelEmbedding(self.channels[0], width, name="time")(log_snr)
        h = convolution(self.channels[0], dtype=jnp.float32, name="conv_in")(pixels_to_channels(noisy, self.patch))
        for level, channels in enumerate(self.channels):
            for number in range(self.blocks):
                resample = "down" if level and not number else "none"
                block = ResidualBlock(channels, resample, self.dropout, name=f"level_{level}_block_{number}")
                h = block(h, embedding, train)
        h = nn.swish(GroupNorm(name="norm_out")(h)).mean((1, 2))
        return dense(self.classes, zero=True, dtype=jnp.float32, name="logits")(h)
