"""CLIP's two towers (Radford et al. 2021, arXiv 2103.00020), of which the one for pictures is a vision transformer.

    pictures in patches + class token -> transformer -> what became of the class token -> projection
    tokens of a caption -> causal transformer -> what became of the token that ends it  -> projection

Both transformers normalise before each sub-layer and use ``x · sigmoid(1.702 x)`` in place of GELU. What comes out has
no length of its own that means anything: its direction is compared.
"""

from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from imagen_jax.array_types import Images, TokenIds

Sequences = Float[Array, "batch places tower_width"]
Embeddings = Float[Array, "batch embedding"]

EPSILON = 1e-5
LOW_STD = nn.initializers.normal(0.02)


@dataclass(frozen=True)
class TowerSizes:
    """Sizes of a transformer.

    Attributes:
        width: of the vectors between its layers.
        layers: how many.
        heads: of each attention; they divide ``width``.
        hidden: width inside the perceptrons.
    """

    width: int
    layers: int
    heads: int
    hidden: int


@dataclass(frozen=True)
class ClipSizes:
    """Sizes of a whole CLIP.

    Attributes:
        image: of the image tower.
        text: of the text tower.
        resolution: of the pictures, in pixels.
        patch: side of a patch, in pixels; it divides ``resolution``.
        vocabulary: number of tokens.
        context: places for the tokens of a caption.
        embedding: width of what both towers return.
        end: id of the token that ends a caption.
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
        heads: how many.
        causal: whether a place sees only itself and those before it.
    """

    heads: int
    causal: bool

    @nn.compact
    def __call__(self, x: Sequences) -> Sequences:
        """Returns what each place gathers from those it sees."""
        places, width = x.shape[1:]
        head_width = width // self.heads

        def project(name: str) -> Float[Array, "batch places heads head_width"]:
            return nn.Dense(width, name=name)(x).reshape(-1, places, self.heads, head_width)

        query, key, value = project("query") / head_width**0.5, project("key"), project("value")
        logits = jnp.einsum("bqhd,bkhd->bhqk", query, key)
        if self.causal:
            logits = jnp.where(jnp.tri(places, dtype=bool)[None, None], logits, -jnp.inf)
        gathered = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(logits), value)
        return nn.Dense(width, name="output")(gathered.reshape(x.shape))


class Layer(nn.Module):
    """Self-attention, then a perceptron, each added to what it is given.

    Attributes:
        sizes: of the tower.
        causal: see ``SelfAttention``.
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
    """Each patch of a picture as one vector, row by row.

    Attributes:
        size: side of a patch, in pixels.
        width: of the vectors.
    """

    size: int
    width: int

    @nn.compact
    def __call__(self, images: Images) -> Sequences:
        """Returns ``(batch, patches, width)``."""
        batch, height, width, channels = images.shape
        kernel = self.param("kernel", LOW_STD, (self.size, self.size, channels, self.width))
        rows, columns = height // self.size, width // self.size
        # One product: patches don't overlap, so a convolution in steps of their size is no more than that.
        cut = images.reshape(batch, rows, self.size, columns, self.size, channels).transpose(0, 1, 3, 2, 4, 5)
        return cut.reshape(batch, rows * columns, -1) @ kernel.reshape(-1, self.width)


class ImageTower(nn.Module):
    """``tower.apply({"params": params}, images)``: pictures, normalised by ``clip_preprocessing``, to embeddings."""

    sizes: ClipSizes

    @nn.compact
    def __call__(self, images: Images) -> Embeddings:
        """Returns ``(batch, embedding)``."""
        sizes, tower = self.sizes, self.sizes.image
        places = (sizes.resolution // sizes.patch) ** 2 + 1
        class_token = self.param("class_token", LOW_STD, (tower.width,))
        patches = Patches(sizes.patch, tower.width, name="patches")(images)
        x = jnp.concatenate([jnp.broadcast_to(class_token, (len(images), 1, tower.width)), patches], axis=1)
        x = make_norm("first_norm")(x + self.param("positions", LOW_STD, (places, tower.width))[None])
        for index in range(tower.layers):
            x = Layer(tower, causal=False, name=f"layer_{index}")(x)
        return nn.Dense(sizes.embedding, use_bias=False, name="projection")(make_norm("last_norm")(x[:, 0]))


class TextTower(nn.Module):
    """``tower.apply({"params": params}, ids)``: token ids of captions, ``(batch, context)``, to embeddings.

    What stands behind the first ``end`` of a caption changes nothing.
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
    """Returns a LayerNorm with a variance computed in two passes, which loses no digits."""
    return nn.LayerNorm(epsilon=EPSILON, use_fast_variance=False, name=name)
