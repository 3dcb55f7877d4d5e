"""What requests bring along for a decoder: image embeddings, and the noise to start from.

requests, what their captions tell -> image embeddings where a request has one, the null where it has no caption
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from imagen_jax.array_types import Keys, Samples
from imagen_jax.cascade.requests import ImageRequest
from imagen_jax.cascade.stage import Stage
from imagen_jax.cascade.stage_sampler import starting_noise
from imagen_jax.diffusion.conditions import Conditions, Vectors, null
from imagen_jax.errors import UserError


def with_image_vectors(
    told: Conditions,
    stage: Stage,
    requests: Sequence[ImageRequest],
    embed_captions: Callable[[], Any],
    null_is_encoded: bool = False,
) -> Conditions:
    """Returns the conditions with the image embeddings that requests bring along, or take from their captions.

    Args:
        told: what the captions tell; its image embeddings are absent.
        stage: the stage.
        requests: the requests. One that brings an embedding and has an empty prompt has no caption.
        embed_captions: returns the embeddings of the captions, ``(requests, width)``.
        null_is_encoded: whether the stage's null is the encoded empty caption, so that an empty prompt stays as it is.

    Raises:
        UserError: an embedding has another width than the decoder takes, or as ``embed_captions``.
    """
    if told.image_vector is None:
        return told
    values, present = np.array(told.image_vector.values), np.array(told.image_vector.present)
    if any(request.conditioning == "text_embedding" for request in requests):
        of_captions = np.asarray(embed_captions())
        for row, request in enumerate(requests):
            if request.conditioning == "text_embedding":
                check_vector(of_captions[row], stage.image_vector)
                values[row], present[row] = of_captions[row], True
    for row, request in enumerate(requests):
        if request.vector is not None:
            check_vector(np.asarray(request.vector), stage.image_vector)
            values[row], present[row] = request.vector, True
    told = told._replace(image_vector=Vectors(jnp.asarray(values), jnp.asarray(present)))
    if null_is_encoded:
        return told
    return without_captions(told, [one.vector is not None and not one.prompt for one in requests])


def without_captions(told: Conditions, without: Sequence[bool]) -> Conditions:
    """Returns the conditions with the null in the place of some examples' captions."""
    rows, nothing = np.asarray(without), null(told)

    def choose(nulls: jax.Array, own: jax.Array) -> jax.Array:
        return jnp.where(rows.reshape(-1, *[1] * (own.ndim - 1)), nulls, own)

    captions = {name: getattr(told, name) for name in ("text", "tokens", "text_vector")}
    chosen = {name: jax.tree.map(choose, getattr(nothing, name), part) for name, part in captions.items()}
    return told._replace(**chosen)


def check_vector(vector: np.ndarray, width: int) -> None:
    """Checks the width of an image embedding.

    Raises:
        UserError: it has another width than the decoder takes.
    """
    if vector.shape != (width,):
        raise UserError(
            f"an image embedding has the shape {vector.shape}, and the decoder takes vectors of {width}: use the "
            "embeddings of the CLIP that it was trained with"
        )


def with_given_noise(
    start: Samples | None, stage: Stage, requests: Sequence[ImageRequest], keys: Keys
) -> Samples | None:
    """Returns the noise to start from, with that of requests that bring it along, in the first stage of images.

    Args:
        start: the noise so far; None for that of the keys.
        stage: the stage.
        requests: the requests.
        keys: their keys, for the noise of the others.

    Raises:
        UserError: a request's noise has another shape than the samples.
    """
    if stage.makes_vectors or stage.low_resolution is not None or all(one.start is None for one in requests):
        return start
    values = np.array(starting_noise(keys, stage.shape) if start is None else start)
    for row, request in enumerate(requests):
        if request.start is not None:
            if np.shape(request.start) != stage.shape:
                raise UserError(
                    f"a request starts from noise of the shape {np.shape(request.start)}, and the stage makes samples "
                    f"of {stage.shape}: encode the image with the same stage"
                )
            values[row] = request.start
    return jnp.asarray(values)
