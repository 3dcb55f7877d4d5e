"""A network of your own: a diffusion transformer (Peebles & Xie 2023, "DiT", section 3.2) in plain Flax.

    noisy image -> patches as tokens -> blocks of attention and a perceptron -> patches -> prediction

Time and text enter each block by adaptive layer normalisation (adaLN-Zero): scales, shifts and gates are a function of
one embedding. The text's tokens are also keys and values of the attention, before the patches'.
"""

import flax.linen as nn
import jax.numpy as jnp

from imagen_jax.diffusion.conditions import UNCONDITIONAL


def waves(value, width):
    """Cosines and sines of a number of each example, (batch, width)."""
    angles = value[:, None] * jnp.geomspace(0.1, 10.0, width // 2)[None]
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


class Block(nn.Module):
    """Attention, then a perceptron; each scaled, shifted and gated by the embedding. It starts as the identity."""

    width: int
    heads: int

    @nn.compact
    def __call__(self, x, text, mask, embedding):
        modulation = nn.Dense(6 * self.width, kernel_init=nn.initializers.zeros)(nn.silu(embedding))[:, None]
        scale, shift, gate, other_scale, other_shift, other_gate = jnp.split(modulation, 6, axis=-1)
        h = nn.LayerNorm(use_scale=False, use_bias=False)(x) * (1 + scale) + shift
        keys = jnp.concatenate([text, h], axis=1)
        x = x + gate * nn.MultiHeadDotProductAttention(self.heads)(h, keys, mask=mask[:, None, None])
        h = nn.LayerNorm(use_scale=False, use_bias=False)(x) * (1 + other_scale) + other_shift
        return x + other_gate * nn.Dense(self.width)(nn.gelu(nn.Dense(4 * self.width)(h)))


class DiT(nn.Module):
    """The transformer: the contract is the signature of ``__call__``, and an output shaped like the noisy image."""

    patch: int = 4
    width: int = 64
    depth: int = 4
    heads: int = 4

    @nn.compact
    def __call__(self, noisy, log_snr, conditions=UNCONDITIONAL, *, estimate=None, train=False):
        if conditions.given != ("text",):
            raise ValueError(f"this network is told text alone, not {conditions.given}")
        batch, height, width, channels = noisy.shape
        rows, columns = height // self.patch, width // self.patch
        patches = noisy.reshape(batch, rows, self.patch, columns, self.patch, channels).transpose(0, 1, 3, 2, 4, 5)
        x = nn.Dense(self.width)(patches.reshape(batch, rows * columns, -1))
        x = x + self.param("positions", nn.initializers.normal(0.02), (1, rows * columns, self.width))

        text = nn.Dense(self.width)(nn.LayerNorm()(conditions.text.embeddings))
        told = conditions.text.mask
        mean = (text * told[:, :, None]).sum(1) / told.sum(1, keepdims=True)
        embedding = nn.Dense(self.width)(waves(log_snr, self.width)) + nn.Dense(self.width)(mean)
        mask = jnp.concatenate([told, jnp.ones(x.shape[:2], bool)], axis=1)
        for _ in range(self.depth):
            x = Block(self.width, self.heads)(x, text, mask, embedding)

        x = nn.Dense(self.patch**2 * channels, kernel_init=nn.initializers.zeros)(nn.LayerNorm()(x))
        x = x.reshape(batch, rows, columns, self.patch, self.patch, channels).transpose(0, 1, 3, 2, 4, 5)
        return x.reshape(noisy.shape)
