"""Embeds the images of a split with a CLIP, at the size they are stored."""

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float32

from imagen_jax.array_types import HostPixels
from imagen_jax.data.pixels import decode_pixels
from imagen_jax.encoders import feature_networks
from imagen_jax.encoders.feature_network import FeatureNetwork
from imagen_jax.errors import UserError
from imagen_jax.evaluation.protocols.image_labels import read_stored
from imagen_jax.evaluation.protocols.references import Reference


def read_pixels(reference: Reference, number: int) -> HostPixels:
    """Reads an image of a split, upright and on white.

    Raises:
        UserError: it can't be read or decoded. The message names it.
    """
    stored = read_stored(reference, number)
    try:
        return decode_pixels(stored.encoded)
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(
            f"image {stored.key} of {reference.name} can't be decoded ({error}): repair or remove it, and prepare the "
            "data set again"
        ) from error


def embed_images(
    network: FeatureNetwork, reference: Reference, numbers: Sequence[int]
) -> Float32[np.ndarray, "images features"]:
    """Embeds images of a split, with a progress bar.

    Args:
        network: the image tower of a CLIP.
        reference: the split.
        numbers: numbers of the images, at least one.

    Raises:
        UserError: an image can't be read or decoded.
    """

    def images() -> Iterator[HostPixels]:
        for number in numbers:
            yield read_pixels(reference, number)

    return feature_networks.extract_features(network, images(), len(numbers)).pooled
