"""CLIP's embeddings of a data set's images as the vectors of a stage: what its prior makes and its decoder is told.

config.embedding -> CLIP -> stored features of all images (``image_embeddings``) -> vector of each image of a batch
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32

from imagen_jax.clip.embedding_space import EmbeddingSpace
from imagen_jax.encoders.clip_text import ClipTextEncoder
from imagen_jax.encoders.image_embeddings import ImageEmbeddings, open_image_embeddings
from imagen_jax.encoders.pretrained_clip import Clip, name_vectors
from imagen_jax.errors import UserError
from imagen_jax.storage.paths import Path


@dataclass(frozen=True)
class ImageVectors:
    """The vectors of the images of data sets.

    Attributes:
        name: identifies the CLIP and the form of its vectors.
        stored: the CLIP's embeddings.
        space: how embeddings become vectors.
    """

    name: str
    stored: ImageEmbeddings
    space: EmbeddingSpace

    def __call__(self, examples: Mapping[str, Any]) -> Float32[np.ndarray, "batch embedding"]:
        """Returns the vectors of a host batch: those of the view, so of the mirrored image if it is mirrored."""
        embeddings = self.stored.lookup(list(examples["key"]), examples["mirrored"])
        return np.asarray(self.space.to_vectors(embeddings), np.float32)


def open_image_vectors(
    clip: Clip, folders: Sequence[Path], width: int, space: EmbeddingSpace, encoder: object = None
) -> ImageVectors:
    """Opens the vectors of all images of data sets, and computes missing ones. Every process must call it.

    Args:
        clip: the CLIP.
        folders: the folders of the data sets.
        width: number of channels of the vectors that the config says.
        space: how embeddings become vectors.
        encoder: the text encoder of the same stage, whose vectors must be of the same CLIP; None for none.

    Raises:
        UserError: the CLIP has embeddings of another width, the text encoder is another CLIP's, or as
            ``open_image_embeddings``.
    """
    if clip.description.embedding != width:
        raise UserError(
            f"config.embedding.clip makes embeddings of {clip.description.embedding}, and the config says {width}: set "
            f"config.stage.vector of a prior, or image_vector of a decoder, to {clip.description.embedding}"
        )
    if isinstance(encoder, ClipTextEncoder) and (encoder.clip, encoder.space.form) != (clip.identity, space.form):
        raise UserError(
            f"the captions' vectors are of {encoder.clip} ({encoder.space.form}), and the images' of {clip.identity} "
            f"({space.form}): let config.text.options.folder and config.embedding.clip name the same CLIP, and "
            "options.vectors be config.embedding.form"
        )
    return ImageVectors(name_vectors(clip, space), open_image_embeddings(folders, clip.image), space)
