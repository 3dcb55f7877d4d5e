r"""The space in which CLIP's image embeddings are told to a decoder, and diffused by a prior.

    embedding z of any length -> vector (``to_vectors``) -> the decoder's condition
                                                         -> sample of the prior (``to_samples``), and back

Only the direction of an embedding has a meaning in CLIP's loss. So in the form "unit" the vector is the direction with
channels near 1, and the prior diffuses a multiple of it,

    vector = √d · z / |z|,    sample = s · vector,    s = 0.5375                                 (1)

Ramesh et al. 2022 (appendix C) multiply embeddings by 17.2, "to match the empirical variance of RGB pixel values". They
do not say whether z has length 1. With their d = 1,024 it must have: 17.2 / √1024 = 0.5375 is the standard deviation of
such pixels, and s is this number, whatever the width.

In the form "raw" the vector is z itself, with its length, and the sample has mean 0 and deviation 1 in each channel:
sample = (z − mean) / deviation. Karlo's prior has it.
"""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from imagen_jax.errors import UserError

FORMS = ("unit", "raw")
DEVIATION = 0.5375
"""The s of equation (1): 17.2 / √1024."""

ImageVectors = Float[Array, "batch embedding"] | Float[np.ndarray, "batch embedding"]


@dataclass(frozen=True)
class EmbeddingSpace:
    """How embeddings become vectors, and vectors samples.

    Attributes:
        form: "unit" or "raw".
        deviation: the s of equation (1), for "unit".
        mean: mean of each channel, for "raw"; () for 0.
        deviations: standard deviation of each channel, for "raw"; () for 1.

    Raises:
        UserError: the form is unknown, or the numbers do not belong to it.
    """

    form: str = "unit"
    deviation: float = DEVIATION
    mean: tuple[float, ...] = ()
    deviations: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise UserError(f"config.embedding.form={self.form!r} is unknown: choose {' or '.join(FORMS)}")
        if len(self.mean) != len(self.deviations) or (self.mean and self.form == "unit"):
            raise UserError(
                f"config.embedding has {len(self.mean)} means and {len(self.deviations)} deviations for the form "
                f"{self.form!r}: give one of each for each channel with 'raw', or none"
            )
        if not self.deviation > 0 or not all(one > 0 for one in self.deviations):
            raise UserError("config.embedding has a deviation that is not positive: check deviation and deviations")

    def to_vectors(self, embeddings: ImageVectors) -> ImageVectors:
        """Returns the vectors of embeddings of any length, ``(batch, d)``."""
        return to_unit(embeddings) if self.form == "unit" else embeddings

    def to_samples(self, vectors: ImageVectors) -> ImageVectors:
        """Returns what a prior diffuses."""
        if self.form == "unit":
            return vectors * self.deviation
        if not self.mean:
            return vectors
        return (vectors - np.asarray(self.mean, np.float32)[None]) / np.asarray(self.deviations, np.float32)[None]

    def from_samples(self, samples: ImageVectors) -> ImageVectors:
        """Returns the vectors of a prior's samples; those of "unit" get their length back."""
        if self.form == "unit":
            return to_unit(samples)
        if not self.mean:
            return samples
        return samples * np.asarray(self.deviations, np.float32)[None] + np.asarray(self.mean, np.float32)[None]


def to_unit(embeddings: ImageVectors) -> ImageVectors:
    """Returns the directions of embeddings with length √d, so that channels are near 1; a zero stays zero."""
    of = jnp if isinstance(embeddings, jnp.ndarray) else np
    lengths = of.sqrt(of.sum(embeddings**2, axis=-1, keepdims=True))
    return embeddings / of.maximum(lengths, np.float32(1e-12)) * np.float32(embeddings.shape[-1] ** 0.5)


def choose_nearest(
    drawn: Float[Array, "candidates batch width"], text_vectors: Float[Array, "batch width"]
) -> Float[Array, "batch width"]:
    """Returns of each example's candidates the one with the largest dot product with its caption's embedding.

    Ramesh et al. 2022, section 2.2: their diffusion prior draws two.
    """
    products = jnp.sum(drawn * text_vectors[None], axis=-1)
    return jnp.take_along_axis(drawn, jnp.argmax(products, axis=0)[None, :, None], axis=0)[0]
