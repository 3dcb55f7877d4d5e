"""The U-Net of DeepFloyd IF, stages I and II: a relative of Imagen with published weights.

It is an ADM U-Net like Imagen's base, with five differences. Its input is the number of a discrete step, not a log-SNR.
Its activation is the GELU. Text passes a dense layer, and in each attention a group normalisation, before the
projection to keys and values. The pooled text is normalised last. Stage II divides each sum of two branches by √2.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from imagen_jax.array_types import Images, PerExample, Text
from imagen_jax.diffusion.conditions import Conditions
from imagen_jax.errors import UserError
from imagen_jax.models.attention import AttentionPool, CrossAttention, SelfAttention
from imagen_jax.models.blocks import ResidualBlock
from imagen_jax.models.conditioning import stack_inputs
from imagen_jax.models.layers import (
    Activation,
    Embedding,
    FeatureMap,
    GroupNorm,
    NewFeatureMap,
    convolution,
    dense,
    sinusoids,
)
from imagen_jax.models.remat import recompute
from imagen_jax.models.unet import walk_levels


def gelu(x: jax.Array) -> jax.Array:
    """Computes the exact GELU with ``erf``. Linen's uses ``erfc``, which takes an additional exponential."""
    return 0.5 * x * (1.0 + jax.lax.erf(x * 0.5**0.5))


def unchanged(x: Embedding) -> Embedding:
    """Returns its input: no activation."""
    return x


ACTIVATIONS: dict[str, Activation] = {"gelu": gelu, "silu": nn.swish, "none": unchanged}


class DeepFloydUNet(nn.Module):
    """The part of diffusers' UNet2DConditionModel that DeepFloyd IF uses.

    Attributes:
        channels: the width of each level.
        blocks: the number of residual blocks of each level on the way down (one more on the way up).
        attention: the attention of each level: "none", "self" (pixels and text are keys) or "cross" (text only).
        middle_attention: the attention of the middle, with the same values.
        text_channels: the width to which the text is projected.
        head_channels: the channels of one attention head.
        text_heads: the number of heads of the attention pool; a divisor of the encoder's width.
        embedding_width: the width of the conditioning embedding; None for four times the first level's.
        activation: a name in ``ACTIVATIONS``.
        shared_embedding_activation: applied once to the conditioning embedding, before all blocks.
        block_embedding_activation: applied to the conditioning embedding in each block.
        scale: the factor of the sum of both branches of a block; 1/√2 in IF-II.
        middle_scale: the same factor for the blocks of the middle.
        out_channels: 6: the noise, and the position of the variance between its bounds.
        remat: the activations that the gradient recomputes, see ``models.remat``.
        dtype: the compute dtype; parameters are float32.
    """

    channels: tuple[int, ...]
    blocks: tuple[int, ...]
    attention: tuple[str, ...]
    middle_attention: str
    text_channels: int
    head_channels: int = 64
    text_heads: int = 64
    embedding_width: int | None = None
    activation: str = "gelu"
    shared_embedding_activation: str = "none"
    block_embedding_activation: str = "gelu"
    scale: float = 1.0
    middle_scale: float = 1.0
    out_channels: int = 6
    remat: str = "none"
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        noisy: Images,
        step: PerExample,
        conditions: Conditions,
        *,
        estimate: Images | None = None,
        train: bool = False,
    ) -> NewFeatureMap:
        """Returns the network's output, ``(batch, height, width, out_channels)``, float32.

        Args:
            noisy: z_t.
            step: the noise level of each example, as a discrete step from 0 (cleanest) to 999 (noisiest).
            conditions: the text, and for stage II the enlarged and noised image, with its discrete step in
                ``log_snr``. Attention uses all tokens of the text's mask; IF's mask includes padding.
            estimate: not used; part of the networks' common signature.
            train: has no effect, because there is no dropout.
        """
        text, low_resolution = conditions.text, conditions.low_resolution
        if text is None or not {*conditions.given} <= {"text", "low_resolution"}:
            raise UserError(
                f"the network of DeepFloyd IF is told a text, and maybe a low-resolution image, not "
                f"{', '.join(conditions.given) or 'nothing'}"
            )
        embedding = DeepFloydEmbedding(
            self.channels[0],
            self.embedding_width or 4 * self.channels[0],
            self.text_heads,
            self.activation,
            dtype=self.dtype,
            name="conditioning",
        )(step, text, low_resolution and low_resolution.log_snr)
        embedding = ACTIVATIONS[self.shared_embedding_activation](embedding)
        tokens = dense(self.text_channels, dtype=self.dtype, name="text_projection")(text.embeddings)
        text = Text(tokens.astype(jnp.float32), text.mask)

        def block(x: FeatureMap, channels: int, name: str, resample: str = "none") -> NewFeatureMap:
            return recompute(ResidualBlock, self.remat, static=(3,))(
                channels,
                resample,
                activation=ACTIVATIONS[self.activation],
                embedding_activation=ACTIVATIONS[self.block_embedding_activation],
                scale=self.middle_scale if name.startswith("middle") else self.scale,
                dtype=self.dtype,
                name=name,
            )(x, embedding, train)

        def attend(x: FeatureMap, level: int | None, name: str) -> FeatureMap:
            kind = self.middle_attention if level is None else self.attention[level]
            if kind == "none":
                return x
            heads = x.shape[-1] // self.head_channels
            make = recompute({"self": SelfAttention, "cross": CrossAttention}[kind], self.remat)
            return make(
                heads,
                normalise_text=True,
                recompute_weights=self.remat == "attention",
                dtype=self.dtype,
                name=name,
            )(x, text)

        x = stack_inputs(noisy, conditions, None).astype(self.dtype)
        x = convolution(self.channels[0], dtype=self.dtype, name="conv_in")(x)
        x = walk_levels(x, self.channels, self.blocks, block, attend)
        x = ACTIVATIONS[self.activation](GroupNorm(name="norm_out")(x))
        return convolution(self.out_channels, zero=True, dtype=jnp.float32, name="conv_out")(x.astype(jnp.float32))


class DeepFloydEmbedding(nn.Module):
    """Adds the embeddings of the step, of the augmentation step and of the pooled text.

    The attributes are those of ``DeepFloydUNet``, except ``channels``, the width of the sinusoids, and ``width``, the
    width of the embedding.
    """

    channels: int
    width: int
    text_heads: int
    activation: str
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, step: PerExample, text: Text, augmentation_step: PerExample | None) -> Embedding:
        def layer(name: str) -> nn.Dense:
            return dense(self.width, dtype=self.dtype, name=name)

        def embed(number: PerExample, name: str) -> Embedding:
            features = sinusoids(number, self.channels).astype(self.dtype)
            return layer(f"{name}_out")(ACTIVATIONS[self.activation](layer(f"{name}_hidden")(features)))

        def normalise(x: Embedding, name: str) -> Embedding:
            return nn.LayerNorm(epsilon=1e-5, dtype=jnp.float32, name=name)(x)

        embedding = embed(step, "step")
        if augmentation_step is not None:
            embedding += embed(augmentation_step, "augmentation")
        tokens = nn.LayerNorm(epsilon=1e-5, dtype=jnp.float32, name="text_norm")(text.embeddings)
        pooled = AttentionPool(self.text_heads, offset=True, dtype=self.dtype, name="text_pool")(
            Text(tokens, text.mask)
        )
        return embedding + normalise(layer("pooled")(pooled), "pooled_norm").astype(self.dtype)
