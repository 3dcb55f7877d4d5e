"""The Efficient U-Net of Imagen's super-resolution stages (appendix F.1, figures A.27 to A.30).

It differs from the ADM U-Net in three ways. Most blocks and parameters are at low resolutions. A level resamples
*before* its blocks on the way down and *after* them on the way up, so that blocks run at the lower resolution. Skips
are scaled by 1/√2.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from flax.core import FrozenDict
from jax.typing import DTypeLike

from imagen_jax.array_types import Images, PerExample
from imagen_jax.diffusion.conditions import UNCONDITIONAL, Conditions
from imagen_jax.errors import UserError
from imagen_jax.models.attention import Attention, CrossAttention, FeedForward, SelfAttention
from imagen_jax.models.blocks import ResidualBlock
from imagen_jax.models.conditioning import ConditioningEmbedding, stack_inputs
from imagen_jax.models.equal_blocks import run_blocks
from imagen_jax.models.layers import (
    Embedding,
    FeatureMap,
    NewFeatureMap,
    channels_to_pixels,
    convolution,
    dense,
    pixels_to_channels,
)
from imagen_jax.models.remat import recompute


class EfficientUNet(nn.Module):
    """A U-Net with one DBlock per level on the way down, and one UBlock per level on the way up.

    Attributes:
        channels: the width of each level, first to last (Imagen: 128, 256, 512, 1024).
        blocks: the number of residual blocks of each level (Imagen: 2, 4, 8, 8).
        strides: the factor by which each DBlock shrinks, and its UBlock enlarges (Imagen: 2 everywhere).
        self_attention: whether each level has self-attention with the text in its keys (Imagen: the last of 64→256).
        cross_attention: whether each level has cross-attention to the text (Imagen: the last).
        heads: the number of heads of each attention (Imagen: 8).
        text_heads: the number of heads of the attention pool over the text.
        text_channels: the width to which the text is projected, see ``ConditioningEmbedding``; None for no projection.
        classes: the number of classes, for a network that is told a class; 0 for none.
        vector_tokens: the number of tokens that each vector of the conditions also becomes; 0 for none.
        text_transformer: the sizes of a text transformer that reads token ids and trains along, by the names in
            ``models.text_transformer.SIZES``; None for none.
        time_features: "sinusoids", or "fourier" for random frequencies; see ``conditioning.TIME_FEATURES``.
        embedding_enters: how the embedding enters a block, see ``ResidualBlock``.
        dropout: the rate inside residual blocks.
        out_channels: those of the images, or twice as many if the network also predicts a variance.
        embedding_width: the width of the conditioning embedding; None for four times the first level's.
        patch: the side of the blocks of pixels that are laid out as channels (Imagen: 1). Matrix units and small
            machines are fast at few pixels with many channels (Hoogeboom et al. 2023).
        input_gates: whether to add the input images to the output, see ``InputGates`` (Imagen: no). Needs as many
            out_channels as the images have.
        remat: the activations that the gradient recomputes, see ``models.remat``.
        scan: whether the equal blocks of a level are one loop of the program, see ``models.equal_blocks``.
        dtype: the compute dtype; parameters are float32.
    """

    channels: tuple[int, ...] = (128, 256, 512, 1024)
    blocks: tuple[int, ...] = (2, 4, 8, 8)
    strides: tuple[int, ...] = (2, 2, 2, 2)
    self_attention: tuple[bool, ...] = (False, False, False, True)
    cross_attention: tuple[bool, ...] = (False, False, False, True)
    heads: int = 8
    text_heads: int = 8
    text_channels: int | None = None
    classes: int = 0
    vector_tokens: int = 0
    text_transformer: Mapping[str, Any] | None = None
    time_features: str = "sinusoids"
    embedding_enters: str = "scale_shift"
    dropout: float = 0.0
    out_channels: int = 3
    embedding_width: int | None = None
    patch: int = 1
    input_gates: bool = False
    remat: str = "none"
    scan: bool = False
    dtype: DTypeLike = jnp.float32

    def __post_init__(self) -> None:
        # A module must have a hash, and a dict has none.
        if self.text_transformer is not None:
            self.text_transformer = FrozenDict(self.text_transformer)
        super().__post_init__()

    @nn.compact
    def __call__(
        self,
        noisy: Images,
        log_snr: PerExample,
        conditions: Conditions = UNCONDITIONAL,
        *,
        estimate: Images | None = None,
        train: bool = False,
    ) -> NewFeatureMap:
        """Returns the output, ``(batch, height, width, out_channels)``, float32. The arguments are ``UNet``'s."""
        width = self.embedding_width or 4 * self.channels[0]
        embedding, tokens = ConditioningEmbedding(
            self.channels[0],
            width,
            self.text_heads,
            self.text_channels,
            self.classes,
            self.vector_tokens,
            self.time_features,
            self.text_transformer,
            self.remat,
            dtype=self.dtype,
            name="conditioning",
        )(log_snr, conditions)

        make_block = recompute(ResidualBlock, self.remat, static=(3,))

        def run_level(x: FeatureMap, level: int, name: str) -> NewFeatureMap:
            def make_attention(kind: type[Attention], name: str) -> Any:
                recompute_weights = self.remat == "attention"
                return recompute(kind, self.remat)(
                    self.heads, recompute_weights=recompute_weights, dtype=self.dtype, name=name
                )

            width = self.channels[level]
            make = partial(
                make_block, width, dropout=self.dropout, embedding_enters=self.embedding_enters, dtype=self.dtype
            )
            names = [f"{name}_{level}_{index}" for index in range(self.blocks[level])]
            if names and x.shape[-1] != width:
                x = make(name=names.pop(0))(x, embedding, train)
            x = run_blocks(self, make, names, x, embedding, train, self.scan)
            if self.self_attention[level]:
                x = make_attention(SelfAttention, f"{name}_{level}_self_attention")(x, tokens)
            if self.cross_attention[level] and tokens is not None:
                x = make_attention(CrossAttention, f"{name}_{level}_cross_attention")(x, tokens)
            if self.self_attention[level] or self.cross_attention[level]:
                x = recompute(FeedForward, self.remat)(dtype=self.dtype, name=f"{name}_{level}_feed_forward")(x)
            return x

        if self.input_gates and self.out_channels != noisy.shape[-1]:
            raise UserError(
                f"network.input_gates adds images of {noisy.shape[-1]} channels to an output of {self.out_channels}: "
                "set config.network.out_channels to the channels of the images, or input_gates to False"
            )
        inputs = stack_inputs(noisy, conditions, estimate)
        x = pixels_to_channels(inputs.astype(self.dtype), self.patch)
        x = convolution(self.channels[0], dtype=self.dtype, name="conv_in")(x)
        skips = []
        for level, (width, stride) in enumerate(zip(self.channels, self.strides, strict=True)):
            x = convolution(width, stride=stride, dtype=self.dtype, name=f"down_{level}_conv")(x)
            x = run_level(x, level, "down")
            skips.append(x)

        for level, stride in reversed(list(enumerate(self.strides))):
            x = jnp.concatenate([x, skips.pop() * 2**-0.5], axis=-1)
            x = run_level(x, level, "up")
            width = self.channels[max(level - 1, 0)]
            if level > 0 or stride > 1:
                x = UpsamplingConvolution(width, stride, dtype=self.dtype, name=f"up_{level}_conv")(x)

        channels = self.out_channels * self.patch**2
        x = convolution(channels, size=1, zero=True, dtype=jnp.float32, name="out")(x.astype(jnp.float32))
        x = channels_to_pixels(x, self.patch)
        return x + InputGates(self.out_channels, name="input_gates")(inputs, embedding) if self.input_gates else x


class UpsamplingConvolution(nn.Module):
    """Enlarges a feature map ``stride`` times: a 3×3 convolution to stride² times the channels, laid out as pixels.

    It can express a convolution after nearest-neighbour upsampling, but computes on 1/stride² of the pixels (Shi et al.
    2016).
    """

    channels: int
    stride: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: FeatureMap) -> NewFeatureMap:
        x = convolution(self.channels * self.stride**2, dtype=self.dtype, name="conv")(x)
        return channels_to_pixels(x, self.stride)


class InputGates(nn.Module):
    """A weighted sum of the network's input images. Each weight is a learned function of the conditioning embedding.

    The network then only predicts the difference to the noisy image at low noise, and to the enlarged low-resolution
    image at high noise. The weights start at zero. The c_skip of Karras et al. 2022 (table 1) is a fixed weight of this
    kind. Returns ``(batch, height, width, channels)``, float32.

    Attributes:
        channels: the number of channels of an image.
    """

    channels: int

    @nn.compact
    def __call__(self, inputs: FeatureMap, embedding: Embedding) -> NewFeatureMap:
        images = inputs.astype(jnp.float32).reshape(*inputs.shape[:3], -1, self.channels)
        gates = dense(images.shape[3], zero=True, dtype=jnp.float32, name="gates")(nn.swish(embedding))
        return jnp.einsum("bhwic,bi->bhwc", images, gates)
