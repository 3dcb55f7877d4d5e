"""The U-Net of DeepFloyd IF, stages I and II: the open relative of Imagen whose weights can be had.

An ADM U-Net as Imagen's base is, with these differences: it is told the number of a discrete step and not a log-SNR,
its activation is the GELU, text passes a dense layer and a group normalisation of each attention before it becomes keys
and values, the pooled text is normalised last, and stage II divides each sum of two branches by √2.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from imagen_jax.array_types import Images, LowResolution, PerExample, Text
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


def gelu(x: FeatureMap | Embedding) -> FeatureMap | Embedding:
    """The exact GELU, by the error function; Linen's is by its complement, which takes an exponential besides."""
    return 0.5 * x * (1.0 + jax.lax.erf(x * 0.5**0.5))


def unchanged(x: Embedding) -> Embedding:
    """No activation."""
    return x


ACTIVATIONS: dict[str, Activation] = {"gelu": gelu, "silu": nn.swish, "none": unchanged}


class DeepFloydUNet(nn.Module):
    """The U-Net that diffusers calls UNet2DConditionModel, as far as DeepFloyd IF uses it.

    Attributes:
        channels: width of each level.
        blocks: residual blocks of each level, on the way down (one more on the way up).
        attention: what each level has: "none", "self" (places and text are keys) or "cross" (text alone).
        middle_attention: the same for the middle.
        text_channels: width that text is brought to.
        head_channels: channels of one attention head.
        text_heads: heads of the attention pool; divides the encoder's width.
        embedding_width: width of the conditioning embedding; None: four times the first level's.
        activation: see ``ACTIVATIONS``.
        shared_embedding_activation: applied to the conditioning embedding once, before any block sees it.
        block_embedding_activation: applied to it in each block.
        scale: of the sum of both branches of a block; IF-II has 1/√2.
        middle_scale: the same for the middle.
        out_channels: 6: the noise, and where the variance lies between its bounds.
        remat: what is computed again for the gradient, see ``models.remat``.
        dtype: compute type; parameters are float32.
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
        text: Text,
        low_resolution: LowResolution | None = None,
        estimate: Images | None = None,
        train: bool = False,
    ) -> NewFeatureMap:
        """Returns the network's output, ``(batch, height, width, out_channels)``, float32.

        Args:
            noisy: z_t.
            step: how noisy, as the number of a discrete step: 0 the cleanest, 999 the noisiest.
            text: encoded captions; every token of the mask counts, and IF's mask holds padding too.
            low_resolution: the enlarged and noised condition of stage II, with its step's number in ``log_snr``.
            estimate: takes none; there for the networks' common signature.
            train: changes nothing, for there is no dropout.
        """
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

        x = stack_inputs(noisy, low_resolution and low_resolution.image, None).astype(self.dtype)
        x = convolution(self.channels[0], dtype=self.dtype, name="conv_in")(x)
        x = walk_levels(x, self.channels, self.blocks, block, attend)
        x = ACTIVATIONS[self.activation](GroupNorm(name="norm_out")(x))
        return convolution(self.out_channels, zero=True, dtype=jnp.float32, name="conv_out")(x.astype(jnp.float32))


class DeepFloydEmbedding(nn.Module):
    """Step embedding + augmentation step's + pooled text, as one vector.

    Attributes as ``DeepFloydUNet``'s; ``channels`` is the width of the sinusoids.
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
