"""The U-Nets of Karlo, a public reproduction of DALL·E 2: its decoder, and its super-resolution stage of two networks.

They are ADM U-Nets whose noise level is the number of a discrete step. Karlo is described by its published code alone
(``weight_formats.karlo`` reads its weights). The decoder is told the caption's tokens, z_t and z_i (Ramesh et al. 2022,
section 2.1):

    time embedding + projected z_t + projected z_i   -> each residual block
    four tokens of z_i, then the projected text      -> keys of self-attention

The super-resolution networks have no attention, and are told the image alone, enlarged bicubically (as Pillow does it).
The first takes all steps but
the last, which is the second's: it was trained to finish in one step.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from imagen_jax.array_types import Images, PerExample, Text
from imagen_jax.diffusion.conditions import UNCONDITIONAL, Conditions, Vectors
from imagen_jax.errors import UserError
from imagen_jax.models.conditioning import join_tokens, stack_inputs
from imagen_jax.models.layers import Embedding, FeatureMap, GroupNorm, NewFeatureMap, convolution, dense, sinusoids
from imagen_jax.models.unet import make_parts, walk_levels

LAST_STEP = 0.5
"""The steps below this number, that is step 0, belong to the second network of ``KarloUpsampler``."""


class KarloUNet(nn.Module):
    """The part of diffusers' UNet2DConditionModel, UNet2DModel and UnCLIPTextProjModel that Karlo uses.

    Attributes:
        channels: the width of each level.
        blocks: the number of residual blocks of each level on the way down (one more on the way up).
        attention: whether each level has self-attention, whose keys include the tokens.
        middle_attention: whether the middle has it.
        text_channels: the width of the tokens.
        vector_tokens: the number of tokens that z_i becomes.
        head_channels: the channels of one attention head.
        embedding_enters: how the embedding enters a block, see ``ResidualBlock``.
        out_channels: those of the images, or twice as many if the network also predicts a variance.
        dropout: the rate inside residual blocks.
        remat: the activations that the gradient recomputes, see ``models.remat``.
        dtype: the compute dtype; parameters are float32.
    """

    channels: tuple[int, ...]
    blocks: tuple[int, ...]
    attention: tuple[bool, ...]
    middle_attention: bool = True
    text_channels: int = 1536
    vector_tokens: int = 4
    head_channels: int = 64
    embedding_enters: str = "scale_shift"
    out_channels: int = 6
    dropout: float = 0.0
    remat: str = "none"
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        noisy: Images,
        step: PerExample,
        conditions: Conditions = UNCONDITIONAL,
        *,
        estimate: Images | None = None,
        train: bool = False,
    ) -> NewFeatureMap:
        """Returns the network's output, ``(batch, height, width, out_channels)``, float32.

        Args:
            noisy: z_t.
            step: the noise level of each example, as a discrete step from 0 (cleanest) to 999 (noisiest).
            conditions: what the network is told; parts that are None have no parameters. Attention does not see the
                padding of the text. The noise level of a low-resolution image is not read: Karlo's have none.
            estimate: None; there is no self-conditioning.
            train: whether dropout is on, which needs a "dropout" key.

        Raises:
            UserError: the network is told a class, token ids or an estimate.
        """
        refuse_others(conditions, estimate)
        embedding, tokens = KarloConditioning(
            self.channels[0], self.text_channels, self.vector_tokens, dtype=self.dtype, name="conditioning"
        )(step, conditions)

        def attends(x: FeatureMap, level: int | None) -> bool:
            return self.middle_attention if level is None else self.attention[level]

        block, attend = make_parts(self, embedding, tokens, train, attends)
        x = stack_inputs(noisy, conditions, None).astype(self.dtype)
        x = convolution(self.channels[0], dtype=self.dtype, name="conv_in")(x)
        x = walk_levels(x, self.channels, self.blocks, block, attend)
        x = nn.swish(GroupNorm(name="norm_out")(x))
        return convolution(self.out_channels, zero=True, dtype=jnp.float32, name="conv_out")(x.astype(jnp.float32))


def refuse_others(conditions: Conditions, estimate: Images | None) -> None:
    """Checks that Karlo's networks can be told these conditions.

    Raises:
        UserError: they can't be told one of them.
    """
    known = ("text", "text_vector", "image_vector", "low_resolution")
    if other := [name for name in conditions.given if name not in known]:
        raise UserError(f"a network of Karlo can't be told {', '.join(other)}: it takes {', '.join(known)}")
    if estimate is not None:
        raise UserError("a network of Karlo takes no estimate of its own: set --config.stage.self_conditioned=False")


class KarloConditioning(nn.Module):
    """Adds the embeddings of step, z_t and z_i, and makes the tokens of z_i and of the text.

    The attributes are those of ``KarloUNet``, except ``channels``, the width of the sinusoids.
    """

    channels: int
    text_channels: int
    vector_tokens: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, step: PerExample, conditions: Conditions) -> tuple[Embedding, Text | None]:
        def project(inputs: jax.Array, width: int, name: str) -> Any:
            return dense(width, dtype=self.dtype, name=name)(inputs.astype(self.dtype))

        width = 4 * self.channels
        hidden = nn.swish(project(sinusoids(step, self.channels), width, "step_hidden"))
        embedding = project(hidden, width, "step_out")
        sequences = []
        if conditions.image_vector is not None:
            vectors = self.fill_absent(conditions.image_vector)
            embedding += project(vectors, width, "image_vector_out")
            flat = project(vectors, self.vector_tokens * self.text_channels, "image_vector_tokens")
            # In the kernel, the token is the fastest axis.
            tokens = flat.reshape(len(flat), self.text_channels, self.vector_tokens).swapaxes(1, 2)
            sequences.append(Text(tokens.astype(jnp.float32), jnp.ones(tokens.shape[:2], bool)))
        if conditions.text_vector is not None:
            vector = conditions.text_vector
            embedding += project(jnp.where(vector.present[:, None], vector.values, 0.0), width, "text_vector_out")
        if conditions.text is not None:
            tokens = project(conditions.text.embeddings, self.text_channels, "text_projection")
            tokens = nn.LayerNorm(1e-5, dtype=jnp.float32, use_fast_variance=False, name="text_norm")(tokens)
            sequences.append(Text(tokens, conditions.text.mask))
        return embedding, join_tokens(sequences)

    def fill_absent(self, vector: Vectors) -> jax.Array:
        """Returns the vectors of images, with a learned one where there is none."""
        null = self.param("image_vector_null", nn.initializers.zeros_init(), vector.values.shape[-1:])
        return jnp.where(vector.present[:, None], vector.values, null[None])


class KarloUpsampler(nn.Module):
    """Two networks without attention: ``last`` for step 0, the cleanest, and ``first`` for all others.

    In sampling the examples of a batch share their step, and one of the networks runs. In training both run, and each
    example takes the output of its own.

    Attributes:
        channels: the width of each level.
        blocks: the number of residual blocks of each level on the way down (one more on the way up).
        sampling_steps: the only number of sampling steps for which ``last`` was trained.
        dropout: the rate inside residual blocks.
        remat: the activations that the gradient recomputes, see ``models.remat``.
        dtype: the compute dtype; parameters are float32.
    """

    channels: tuple[int, ...]
    blocks: tuple[int, ...]
    sampling_steps: int = 7
    dropout: float = 0.0
    remat: str = "none"
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        noisy: Images,
        step: PerExample,
        conditions: Conditions = UNCONDITIONAL,
        *,
        estimate: Images | None = None,
        train: bool = False,
    ) -> NewFeatureMap:
        """Returns the network's output, in the shape of ``noisy``, float32; the arguments are those of ``KarloUNet``.

        Raises:
            UserError: as ``KarloUNet``.
        """

        def make(name: str) -> KarloUNet:
            return KarloUNet(
                self.channels,
                self.blocks,
                (False,) * len(self.channels),
                middle_attention=False,
                embedding_enters="addition",
                out_channels=noisy.shape[-1],
                dropout=self.dropout,
                remat=self.remat,
                dtype=self.dtype,
                name=name,
            )

        refuse_others(conditions, estimate)
        if conditions.low_resolution is not None:
            small = conditions.low_resolution
            shape = (*noisy.shape[:3], small.image.shape[-1])
            enlarged = jax.image.resize(small.image, shape, "bicubic")
            conditions = conditions._replace(low_resolution=small._replace(image=enlarged))
        networks = first, last = make("first"), make("last")
        is_last = step < LAST_STEP
        if train or self.is_initializing():
            of_first, of_last = (network(noisy, step, conditions, train=train) for network in networks)
            return jnp.where(is_last[:, None, None, None], of_last, of_first)
        return nn.cond(
            is_last[0],
            lambda module, *inputs: last(*inputs),
            lambda module, *inputs: first(*inputs),
            self,
            noisy,
            step,
            conditions,
        )
