"""CLIP's two towers (Radford et al. 2021, arXiv 2103.00020). The image tower is a vision transformer.

    patches of an image + class token -> transformer -> last state of the class token -> projection
    tokens of a caption -> causal transformer -> last state of the end token -> projection

Both transformers normalise before each sub-layer and use ``x · sigmoid(1.702 x)`` instead of GELU. Only the direction
of an embedding has a meaning; its length has none.
"""

from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from imagen_jax.array_types import Images, TokenIds

Sequences = Float[Array, "batch positions tower_width"]
Embeddings = Float[Array, "batch embedding"]

EPSILON = 1e-5
LOW_STD = nn.initializers.normal(0.02)


@dataclass(frozen=True)
class TowerSizes:
    """Sizes of a transformer.

    Attributes:
        width: the size of the hidden states.
        layers: the number of layers.
        heads: the number of attention heads; a divisor of ``width``.
        hidden: the width inside the perceptrons.
    """

    width: int
    layers: int
    heads: int
    hidden: int


@dataclass(frozen=True)
class ClipSizes:
    """Sizes of a whole CLIP.

    Attributes:
        image: the sizes of the image tower.
        text: the sizes of the text tower.
        resolution: the side of an image, in pixels.
        patch: the side of a patch, in pixels; a divisor of ``resolution``.
        vocabulary: the number of tokens in the vocabulary.
        context: the number of token positions of a caption.
        embedding: the size of both towers' embeddings.
        end: the id of the end token.
    """

    image: TowerSizes
    text: TowerSizes
    resolution: int
    patch: int
    vocabulary: int
    context: int
    embedding: int
    end: int


class SelfAttention(nn.Module):
    """Multi-head self-attention.

    Attributes:
        heads: the number of heads.
        causal: whether a position attends only to itself and earlier ones.
    """

    heads: int
    causal: bool

    @nn.compact
    def __call__(self, x: Sequences) -> Sequences:
        """Returns the attention output of each position."""
        positions, width = x.shape[1:]
        head_width = width // self.heads

        def project(name: str) -> Float[Array, "batch positions heads head_width"]:
            return nn.Dense(width, name=name)(x).reshape(-1, positions, self.heads, head_width)

        query, key, value = project("query") / head_width**0.5, project("key"), project("value")
        logits = jnp.einsum("bqhd,bkhd->bhqk", query, key)
        if self.causal:
            logits = jnp.where(jnp.tri(positions, dtype=bool)[None, None], logits, -jnp.inf)
        gathered = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(logits), value)
        return nn.Dense(width, name="output")(gathered.reshape(x.shape))


class Layer(nn.Module):
    """Self-attention, then a perceptron, both with a residual connection.

    Attributes:
        sizes: the sizes of the tower.
        causal: whether the attention is causal.
    """

    sizes: TowerSizes
    causal: bool

    @nn.compact
    def __call__(self, x: Sequences) -> Sequences:
        """Returns the next layer's input."""
        x += SelfAttention(self.sizes.heads, self.causal, name="attention")(make_norm("attention_norm")(x))
        expanded = nn.Dense(self.sizes.hidden, name="expand")(make_norm("perceptron_norm")(x))
        return x + nn.Dense(self.sizes.width, name="contract")(expanded * nn.sigmoid(1.702 * expanded))


class Patches(nn.Module):
    """Maps each patch of an image to one vector, row by row.

    Attributes:
        size: the side of a patch, in pixels.
        width: the size of the vectors.
    """

    size: int
    width: int

    @nn.compact
    def __call__(self, images: Images) -> Sequences:
        """Returns ``(batch, patches, width)``."""
        batch, height, width, channels = images.shape
        kernel = self.param("kernel", LOW_STD, (self.size, self.size, channels, self.width))
        rows, columns = height // self.size, width // self.size
        # Patches do not overlap, so the convolution with stride ``size`` is a single matrix product.
        patches = images.reshape(batch, rows, self.size, columns, self.size, channels).transpose(0, 1, 3, 2, 4, 5)
        return patches.reshape(batch, rows * columns, -1) @ kernel.reshape(-1, self.width)


class ImageTower(nn.Module):
    """``tower.apply({"params": params}, images)``: images, normalised by ``clip_preprocessing``, to embeddings."""

    sizes: ClipSizes

    @nn.compact
    def __call__(self, images: Images) -> Embeddings:
        """Returns ``(batch, embedding)``."""
        sizes, tower = self.sizes, self.sizes.image
        positions = (sizes.resolution // sizes.patch) ** 2 + 1
        class_token = self.param("class_token", LOW_STD, (tower.width,))
        patches = Patches(sizes.patch, tower.width, name="patches")(images)
        x = jnp.concatenate([jnp.broadcast_to(class_token, (len(images), 1, tower.width)), patches], axis=1)
        x = make_norm("first_norm")(x + self.param("positions", LOW_STD, (positions, tower.width))[None])
        for index in range(tower.layers):
            x = Layer(tower, causal=False, name=f"layer_{index}")(x)
        return nn.Dense(sizes.embedding, use_bias=False, name="projection")(make_norm("last_norm")(x[:, 0]))


class TextTower(nn.Module):
    """``tower.apply({"params": params}, ids)``: token ids of captions, ``(batch, context)``, to embeddings.

    Tokens after the first ``end`` token of a caption do not change its embedding.
    """

    sizes: ClipSizes

    @nn.compact
    def __call__(self, ids: TokenIds) -> Embeddings:
        """Returns ``(batch, embedding)``."""
        sizes, tower = self.sizes, self.sizes.text
        x = nn.Embed(sizes.vocabulary, tower.width, name="tokens")(ids)
        x += self.param("positions", LOW_STD, (sizes.context, tower.width))[None]
        for index in range(tower.layers):
            x = Layer(tower, causal=True, name=f"layer_{index}")(x)
        ends = jnp.argmax(ids == sizes.end, axis=1)
        x = make_norm("last_norm")(x[jnp.arange(len(ids)), ends])
        return nn.Dense(sizes.embedding, use_bias=False, name="projection")(x)


def make_norm(name: str) -> nn.LayerNorm:
    """Returns a LayerNorm that computes the variance in two passes, without loss of digits."""
    return nn.LayerNorm(epsilon=EPSILON, use_fast_variance=False, name=name)
