"""The ADM U-Net (Dhariwal & Nichol 2021) with text, as Imagen's 64×64 base uses it (appendix F.1)."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from flax.core import FrozenDict
from jax.typing import DTypeLike

from imagen_jax.array_types import Images, PerExample, Text
from imagen_jax.diffusion.conditions import UNCONDITIONAL, Conditions
from imagen_jax.models.attention import SelfAttention
from imagen_jax.models.blocks import ResidualBlock
from imagen_jax.models.conditioning import ConditioningEmbedding, stack_inputs
from imagen_jax.models.layers import Embedding, FeatureMap, GroupNorm, NewFeatureMap, convolution
from imagen_jax.models.remat import recompute


class UNet(nn.Module):
    """Runs down through the levels, across the middle, and up again, with skips from the way down to the way up.

    Attributes:
        channels: the width of the first level (Imagen's ``embed_dim``: 512 in the 2B base).
        channel_multipliers: the width of each level divided by ``channels``. Each level after the first halves the
            resolution.
        blocks_per_level: the number of residual blocks on the way down (one more on the way up).
        attention_resolutions: the feature-map heights at which there is self-attention.
        head_channels: the channels of one attention head.
        text_heads: the number of heads of the attention pool over the text.
        text_channels: the width to which the text is projected, see ``ConditioningEmbedding``; None for no projection.
        middle_attention: whether there is self-attention in the middle.
        classes: the number of classes, for a network that is told a class; 0 for none.
        vector_tokens: the number of tokens that each vector of the conditions also becomes; 0 for none.
        text_transformer: the sizes of a text transformer that reads token ids and trains along, by the names in
            ``models.text_transformer.SIZES``; None for none.
        time_features: "sinusoids", or "fourier" for random frequencies; see ``conditioning.TIME_FEATURES``.
        embedding_enters: how the embedding enters a block, see ``ResidualBlock``.
        dropout: the rate inside residual blocks.
        out_channels: those of the images, or twice as many if the network also predicts a variance.
        remat: the activations that the gradient recomputes, see ``models.remat``.
        dtype: the compute dtype; parameters are float32.
    """

    channels: int
    channel_multipliers: tuple[int, ...] = (1, 2, 3, 4)
    blocks_per_level: int = 3
    attention_resolutions: tuple[int, ...] = (32, 16, 8)
    head_channels: int = 64
    text_heads: int = 8
    text_channels: int | None = None
    middle_attention: bool = True
    classes: int = 0
    vector_tokens: int = 0
    text_transformer: Mapping[str, Any] | None = None
    time_features: str = "sinusoids"
    embedding_enters: str = "scale_shift"
    dropout: float = 0.0
    out_channels: int = 3
    remat: str = "none"
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
        """Returns the network's output, ``(batch, height, width, out_channels)``, float32.

        Args:
            noisy: z_t.
            log_snr: the log-SNR of each example.
            conditions: what the network is told; parts that are None have no parameters.
            estimate: an earlier estimate of the clean image; None for a network without self-conditioning.
            train: whether dropout is on, which needs a "dropout" key.
        """
        embedding, tokens = ConditioningEmbedding(
            self.channels,
            4 * self.channels,
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

        def attends(x: FeatureMap, level: int | None) -> bool:
            return self.middle_attention if level is None else x.shape[1] in self.attention_resolutions

        block, attend = make_parts(self, embedding, tokens, train, attends)
        x = stack_inputs(noisy, conditions, estimate).astype(self.dtype)
        x = convolution(self.channels, dtype=self.dtype, name="conv_in")(x)
        widths = [self.channels * multiplier for multiplier in self.channel_multipliers]
        x = walk_levels(x, widths, [self.blocks_per_level] * len(widths), block, attend)
        x = nn.swish(GroupNorm(name="norm_out")(x))
        return convolution(self.out_channels, zero=True, dtype=jnp.float32, name="conv_out")(x.astype(jnp.float32))


Block = Callable[..., NewFeatureMap]
"""``block(x, channels, name, resample="none")`` runs one residual block."""

Attend = Callable[[FeatureMap, int | None, str], FeatureMap]
"""``attend(x, level, name)`` runs the attention of a level, or of the middle if ``level`` is None. It returns ``x``
unchanged if there is none."""


def make_parts(
    network: Any,
    embedding: Embedding,
    tokens: Text | None,
    train: bool,
    attends: Callable[[FeatureMap, int | None], bool],
) -> tuple[Block, Attend]:
    """Makes the residual blocks and the self-attention of an ADM U-Net, for ``walk_levels``; call it in its module.

    Args:
        network: the U-Net, with the fields ``dropout``, ``embedding_enters``, ``head_channels``, ``remat``, ``dtype``.
        embedding: what enters each block.
        tokens: further keys of attention; None for none.
        train: whether dropout is on.
        attends: ``(x, level)``: whether there is attention after a block of a level, or of the middle for None.
    """

    def block(x: FeatureMap, channels: int, name: str, resample: str = "none") -> NewFeatureMap:
        make = recompute(ResidualBlock, network.remat, static=(3,))
        return make(
            channels,
            resample,
            network.dropout,
            embedding_enters=network.embedding_enters,
            dtype=network.dtype,
            name=name,
        )(x, embedding, train)

    def attend(x: FeatureMap, level: int | None, name: str) -> FeatureMap:
        if not attends(x, level):
            return x
        heads = x.shape[-1] // network.head_channels
        make = recompute(SelfAttention, network.remat)
        return make(heads, recompute_weights=network.remat == "attention", dtype=network.dtype, name=name)(x, tokens)

    return block, attend


def walk_levels(
    x: FeatureMap, widths: Sequence[int], blocks: Sequence[int], block: Block, attend: Attend
) -> NewFeatureMap:
    """Runs an ADM U-Net with any kind of blocks and attentions.

    It runs down through the levels, across the middle, and up again with one more block per level. Each block on the
    way up takes the last unused output of the way down. Between two levels a block resamples.

    Args:
        x: the output of the first convolution.
        widths: the channels of each level.
        blocks: the number of residual blocks of each level on the way down.
        block: runs one residual block, see ``Block``.
        attend: runs one attention, see ``Attend``.
    """
    skips = [x]
    last = len(widths) - 1
    for level, width in enumerate(widths):
        for index in range(blocks[level]):
            x = attend(block(x, width, f"down_{level}_{index}"), level, f"down_{level}_{index}_attention")
            skips.append(x)
        if level < last:
            x = block(x, width, f"down_{level}_resample", "down")
            skips.append(x)

    x = block(x, widths[last], "middle_0")
    x = attend(x, None, "middle_attention")
    x = block(x, widths[last], "middle_1")

    for level, width in reversed(list(enumerate(widths))):
        for index in range(blocks[level] + 1):
            x = block(jnp.concatenate([x, skips.pop()], axis=-1), width, f"up_{level}_{index}")
            x = attend(x, level, f"up_{level}_{index}_attention")
        if level > 0:
            x = block(x, width, f"up_{level}_resample", "up")
    return x
