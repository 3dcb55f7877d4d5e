"""The Efficient U-Net of Imagen's super-resolution stages (appendix F.1, figures A.27 to A.30).

Against the ADM U-Net: most blocks and parameters sit at low resolutions; a level resamples *before* its blocks on the
way down and *after* them on the way up, so that no block runs at the resolution it leaves; skips are scaled by 1/√2.
"""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike

from imagen_jax.array_types import Images, LowResolution, PerExample, Text
from imagen_jax.models.attention import CrossAttention, FeedForward, SelfAttention
from imagen_jax.models.blocks import ResidualBlock
from imagen_jax.models.conditioning import ConditioningEmbedding, stack_inputs
from imagen_jax.models.layers import FeatureMap, NewFeatureMap, convolution


class EfficientUNet(nn.Module):
    """A DBlock for each level on the way down, a UBlock for each on the way up.

    Attributes:
        channels: width of each level, first to last (Imagen: 128, 256, 512, 1024).
        blocks: residual blocks of each level (Imagen: 2, 4, 8, 8).
        strides: how much each DBlock shrinks, and its UBlock enlarges (Imagen: 2 everywhere).
        self_attention: which levels have self-attention with the text in its keys (Imagen: the last of 64→256).
        cross_attention: which levels have cross-attention to the text (Imagen: the last).
        heads: heads of each attention (Imagen: 8).
        text_heads: heads of the attention pool over the text.
        dropout: rate inside residual blocks.
        out_channels: 3, or 6 where the network also predicts a variance.
        dtype: compute type; parameters are float32.
    """

    channels: tuple[int, ...] = (128, 256, 512, 1024)
    blocks: tuple[int, ...] = (2, 4, 8, 8)
    strides: tuple[int, ...] = (2, 2, 2, 2)
    self_attention: tuple[bool, ...] = (False, False, False, True)
    cross_attention: tuple[bool, ...] = (False, False, False, True)
    heads: int = 8
    text_heads: int = 8
    dropout: float = 0.0
    out_channels: int = 3
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        noisy: Images,
        log_snr: PerExample,
        text: Text | None = None,
        low_resolution: LowResolution | None = None,
        estimate: Images | None = None,
        train: bool = False,
    ) -> Images:
        """Returns the network's output, ``(batch, height, width, out_channels)``, float32; arguments as ``UNet``'s."""
        embedding, text = ConditioningEmbedding(
            self.channels[0], 4 * self.channels[0], self.text_heads, dtype=self.dtype, name="conditioning"
        )(log_snr, text, low_resolution and low_resolution.log_snr)

        def run_blocks(x: FeatureMap, level: int, name: str) -> NewFeatureMap:
            for index in range(self.blocks[level]):
                block = ResidualBlock(
                    self.channels[level], dropout=self.dropout, dtype=self.dtype, name=f"{name}_{level}_{index}"
                )
                x = block(x, embedding, train)
            if self.self_attention[level]:
                x = SelfAttention(self.heads, dtype=self.dtype, name=f"{name}_{level}_self_attention")(x, text)
            if self.cross_attention[level] and text is not None:
                x = CrossAttention(self.heads, dtype=self.dtype, name=f"{name}_{level}_cross_attention")(x, text)
            if self.self_attention[level] or self.cross_attention[level]:
                x = FeedForward(dtype=self.dtype, name=f"{name}_{level}_feed_forward")(x)
            return x

        x = stack_inputs(noisy, low_resolution and low_resolution.image, estimate).astype(self.dtype)
        x = convolution(self.channels[0], dtype=self.dtype, name="conv_in")(x)
        skips = []
        for level, (width, stride) in enumerate(zip(self.channels, self.strides, strict=True)):
            x = convolution(width, stride=stride, dtype=self.dtype, name=f"down_{level}_conv")(x)
            x = run_blocks(x, level, "down")
            skips.append(x)

        for level, stride in reversed(list(enumerate(self.strides))):
            x = jnp.concatenate([x, skips.pop() * 2**-0.5], axis=-1)
            x = run_blocks(x, level, "up")
            width = self.channels[max(level - 1, 0)]
            x = UpsamplingConvolution(width, stride, dtype=self.dtype, name=f"up_{level}_conv")(x)

        return convolution(self.out_channels, size=1, zero=True, dtype=jnp.float32, name="out")(x.astype(jnp.float32))


class UpsamplingConvolution(nn.Module):
    """Enlarges a feature map ``stride`` times: a 3×3 convolution to stride² times the channels, laid out as pixels.

    The same map as convolving after nearest-neighbour repetition can express, at 1/stride² of its places (Shi et al.
    2016).
    """

    channels: int
    stride: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: FeatureMap) -> NewFeatureMap:
        x = convolution(self.channels * self.stride**2, dtype=self.dtype, name="conv")(x)
        batch, height, width, _ = x.shape
        x = x.reshape(batch, height, width, self.stride, self.stride, self.channels)
        x = x.transpose(0, 1, 3, 2, 4, 5)
        return x.reshape(batch, height * self.stride, width * self.stride, self.channels)
