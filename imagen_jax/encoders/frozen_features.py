"""The heads of a CLIP whose towers take features of frozen networks, put together with those networks.

image -> frozen network -> features -> head -> embedding
caption -> frozen text encoder -> mean of its token embeddings -> head -> embedding
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from imagen_jax.array_types import Text
from imagen_jax.clip.description import Description
from imagen_jax.clip.feature_head import FeatureHead
from imagen_jax.encoders.encoder import load_text_encoder
from imagen_jax.encoders.feature_network import Features
from imagen_jax.encoders.feature_networks import FEATURE_NETWORKS
from imagen_jax.errors import UserError, lookup

CAPTIONS_AT_ONCE = 64


def head_on_images(description: Description, params: Any) -> dict[str, Any]:
    """Returns the fields of the feature network that is a frozen network with a head.

    Raises:
        UserError: the frozen network is unknown, its weights are missing, or it has another number of features.
    """
    head: Any = description.make_image_tower()
    network = lookup(FEATURE_NETWORKS, head.network, "image_tower.network")()
    check_features(head, network.width, "image_tower")

    frozen_features = network.extract

    def extract(weights: Any, images: jax.Array) -> Features:
        frozen, of_head = weights
        return Features(head.apply({"params": of_head}, frozen_features(frozen, images).pooled))

    return {
        "resize": network.resize,
        "extract": extract,
        "weights": (network.weights, params),
        "prepare": network.prepare,
    }


def head_on_captions(head: FeatureHead, params: Any) -> Callable[[Sequence[str]], np.ndarray]:
    """Makes the function from captions to embeddings, ``(captions, embedding)``.

    Raises:
        UserError: the frozen text encoder is unknown, or has another width.
    """
    encoder = load_text_encoder(head.network)
    check_features(head, encoder.width, "text_tower")
    apply = jax.jit(lambda features: head.apply({"params": params}, features))

    def embed(captions: Sequence[str]) -> np.ndarray:
        parts = []
        for first in range(0, len(captions), CAPTIONS_AT_ONCE):
            features = average_tokens(encoder.encode(list(captions[first : first + CAPTIONS_AT_ONCE])))
            parts.append(np.asarray(apply(jnp.asarray(features)), np.float32))
        return np.concatenate(parts)

    return embed


def average_tokens(text: Text) -> Float[np.ndarray, "captions features"]:
    """Returns the mean of the token embeddings of each caption, float32."""
    mask = np.asarray(text.mask, np.float32)[..., None]
    return np.sum(np.asarray(text.embeddings, np.float32) * mask, axis=1) / np.maximum(mask.sum(axis=1), 1.0)


def check_features(head: FeatureHead, features: int, tower: str) -> None:
    """Checks that a head takes as many features as its frozen network makes.

    Raises:
        UserError: it does not.
    """
    if head.features != features:
        raise UserError(
            f"config.{tower}.features={head.features}, and {head.network} has {features}: set it to {features}"
        )
