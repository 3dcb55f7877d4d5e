"""A tower that learns only a head on the features of a frozen network, as in LiT (Zhai et al. 2022, arXiv 2111.07991).

features of an image or a caption, computed once -> dropout -> linear layer (or one hidden layer) -> embedding
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from imagen_jax.sharding.axes import gathering, with_logical_axes

KERNEL = ("channels", "hidden")
# Flax's types do not say that initializers can be hashed.
LECUN_NORMAL: Any = nn.initializers.lecun_normal()

FROZEN = "frozen_features"
"""Name of this tower."""

Features = Float[Array, "batch features"]
Embeddings = Float[Array, "batch embedding"]


class FeatureHead(nn.Module):
    """``tower.apply({"params": params}, features)``: features of a frozen network to embeddings.

    Attributes:
        network: name of the frozen network: a key of ``encoders.feature_networks.FEATURE_NETWORKS`` for images, of
            ``encoders.encoder.TEXT_ENCODERS`` for captions, whose token embeddings are averaged.
        features: number of its features.
        embedding: number of channels of an embedding.
        hidden: width of a hidden layer; 0 for none.
        dropout: fraction of the features that are dropped in training, in [0, 1).
        norm: whether the features of each example are shifted and scaled to mean 0 and deviation 1 first.
    """

    network: str
    features: int
    embedding: int
    hidden: int = 0
    dropout: float = 0.0
    norm: bool = False

    def example_input(self) -> np.ndarray:
        """Returns an input of batch size 1, for ``init``."""
        return np.zeros((1, self.features), np.float32)

    @nn.compact
    def __call__(self, features: Features, train: bool = False) -> Embeddings:
        """Returns ``(batch, embedding)``; with ``train`` and dropout it needs the random key ``dropout``."""
        x = jax.nn.standardize(features, axis=-1) if self.norm else features
        x = nn.Dropout(self.dropout)(x, deterministic=not train)
        if self.hidden:
            x = jax.nn.gelu(dense(self.hidden, "hidden")(x))
        return dense(self.embedding, "projection", use_bias=False)(x)


def dense(channels: int, name: str, use_bias: bool = True) -> nn.Dense:
    """Returns a dense layer whose kernel has named axes."""
    initialise = with_logical_axes(LECUN_NORMAL, KERNEL)
    gathered = gathering(KERNEL)
    return nn.Dense(
        channels, use_bias=use_bias, kernel_init=initialise, promote_dtype=gathered, dtype=jnp.float32, name=name
    )
