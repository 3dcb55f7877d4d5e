"""Stands for the image tower of a CLIP that has only a text tower, such as Karlo's without image variations."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from imagen_jax.errors import UserError

ABSENT = "absent"
"""Name of this tower."""


class AbsentTower(nn.Module):
    """A tower without parameters, which embeds nothing.

    Attributes:
        embedding: the size of the embeddings of the other tower.
    """

    embedding: int

    def example_input(self) -> np.ndarray:
        """Returns an input of batch size 1, for ``init``."""
        return np.zeros((1, 1, 1, 3), np.float32)

    def __call__(
        self, images: Float[Array, "batch height width 3"], train: bool = False
    ) -> Float[Array, "batch embedding"]:
        """Returns zeros while parameters are made.

        Raises:
            UserError: it is called for embeddings.
        """
        if not self.is_initializing():
            refuse_images()
        return jnp.zeros((len(images), self.embedding))


def refuse_images() -> None:
    """Refuses to embed images.

    Raises:
        UserError: always.
    """
    raise UserError(
        "this CLIP has no image tower, so it embeds captions alone: import one with both, such as Karlo with its "
        "folder image_encoder/ of image variations"
    )
