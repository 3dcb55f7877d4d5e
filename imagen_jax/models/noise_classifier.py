"""A classifier of noisy images, for classifier guidance: it predicts the class of the clean image."""

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from imagen_jax.array_types import Images, PerExample, Text
from imagen_jax.errors import lookup
from imagen_jax.models.attention import AttentionPool, SelfAttention
from imagen_jax.models.blocks import ResidualBlock
from imagen_jax.models.conditioning import NoiseLevelEmbedding
from imagen_jax.models.layers import Embedding, FeatureMap, GroupNorm, convolution, dense, pixels_to_channels


class NoiseClassifier(nn.Module):
    """The downward half of a U-Net, then a pool over all pixels (Dhariwal & Nichol 2021, section 4).

    The paper has self-attention at 32, 16 and 8 px, and pools by attention; the mean and no attention are enough for
    small networks. All computations are in float32.

    Attributes:
        classes: the number of classes.
        channels: the width of each level. Each level after the first halves the height and width.
        blocks: the number of residual blocks per level.
        patch: the side of the blocks of pixels that are laid out as channels before the first convolution.
        dropout: the rate in the residual blocks, in [0, 1).
        attention_resolutions: the heights at which there is self-attention: (32, 16, 8) in the paper.
        head_channels: the channels of one attention head.
        pool: "mean", or "attention", whose query is the mean pixel, as in CLIP (without its positions).
    """

    classes: int
    channels: tuple[int, ...]
    blocks: int = 1
    patch: int = 1
    dropout: float = 0.0
    attention_resolutions: tuple[int, ...] = ()
    head_channels: int = 64
    pool: str = "mean"

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
                if h.shape[1] in self.attention_resolutions:
                    heads = max(1, channels // self.head_channels)
                    h = SelfAttention(heads, name=f"level_{level}_attention_{number}")(h)
        h = nn.swish(GroupNorm(name="norm_out")(h))
        pooled = lookup(POOLS, self.pool, "classifier.pool")(h, max(1, self.channels[-1] // self.head_channels))
        return dense(self.classes, zero=True, dtype=jnp.float32, name="logits")(pooled)


def pool_by_attention(h: FeatureMap, heads: int) -> Embedding:
    """Pools the pixels into one vector by attention."""
    pixels = h.reshape(h.shape[0], -1, h.shape[-1])
    return AttentionPool(heads, name="pool")(Text(pixels, jnp.ones(pixels.shape[:2], bool)))


POOLS: dict[str, Callable[[FeatureMap, int], Embedding]] = {
    "mean": lambda h, heads: h.mean((1, 2)),
    "attention": pool_by_attention,
}
"""``POOLS[name](features, heads)``: one vector for each image."""
