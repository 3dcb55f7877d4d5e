"""Draws image embeddings for requests by an autoregressive prior, whose folder stands before the stages of a cascade.

requests -> captions and keys -> codes, some captions at once -> embeddings -> the same requests with their vectors
"""

from collections.abc import Sequence
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from imagen_jax.cascade.cascade import Cascade
from imagen_jax.cascade.code_stage import TrainedCodeStage
from imagen_jax.cascade.requests import ImageRequest
from imagen_jax.cascade.stage_inputs import keys_of_prompts
from imagen_jax.cascade.text_encoder import check_encoder
from imagen_jax.diffusion.conditions import Conditions, Vectors
from imagen_jax.encoders.clip_text import load_clip_text
from imagen_jax.errors import UserError
from imagen_jax.storage.paths import Path
from imagen_jax.training.workdir import read_config

AT_ONCE = 8
"""Number of captions that are drawn for at once; fewer are filled up, so that one program serves all."""


def is_code_prior(folder: Path) -> bool:
    """Returns whether a folder is the workdir of an autoregressive prior."""
    return (folder / "config.json").is_file() and "codes" in read_config(folder)


def is_drawn(request: ImageRequest) -> bool:
    """Returns whether an autoregressive prior draws the embedding of a request."""
    return request.vector is None and request.conditioning in ("", "prior")


def check_fits(prior: TrainedCodeStage, cascade: Cascade, requests: Sequence[ImageRequest]) -> None:
    """Checks that an autoregressive prior can draw for these requests.

    Raises:
        UserError: the cascade's first stage is no decoder of directions, it was trained with another CLIP, or a request
            has two prompts.
    """
    decoder = cascade.trained[0]
    if not decoder.stage.image_vector or decoder.stage.space.form != "unit":
        raise UserError(
            f"{prior.name} draws directions of embeddings, and {decoder.name} takes none: list a decoder that was "
            "trained with config.embedding.form='unit' after it"
        )
    trained_with = decoder.config.fingerprints.get("image_encoder", "")
    if trained_with and not trained_with.startswith(f"clip-{prior.clip[:8]}"):
        raise UserError(
            f"{prior.name} draws embeddings of clip-{prior.clip[:8]}, and {decoder.name} was trained with those of "
            f"{trained_with}: combine stages of one CLIP"
        )
    if any(request.to_prompt is not None for request in requests if is_drawn(request)):
        raise UserError("an autoregressive prior draws for one prompt: leave out --to_prompt")


def draw_for_requests(
    prior: TrainedCodeStage, cascade: Cascade, requests: Sequence[ImageRequest], seed: int = 0
) -> list[ImageRequest]:
    """Returns the requests, with drawn embeddings in those for which ``is_drawn`` is true.

    Args:
        prior: the autoregressive prior.
        cascade: the cascade whose first stage is the decoder.
        requests: the requests.
        seed: random seed. A draw depends on the seed, the prompt and the request's index alone.

    Raises:
        UserError: what ``check_fits`` raises, or the prior's CLIP is not the one of its training.
    """
    check_fits(prior, cascade, requests)
    decoder = cascade.trained[0]
    asked = [number for number, request in enumerate(requests) if is_drawn(request)]
    encoder = load_clip_text(prior.codes.clip, prior.codes.text_length)
    check_encoder(encoder, prior.text_encoder, prior.name)
    prior, drawn = replace(prior, params=jax.device_put(prior.params)), list(requests)
    for first in range(0, len(asked), AT_ONCE):
        numbers = asked[first : first + AT_ONCE]
        filled = [requests[number] for number in [*numbers, *numbers[:1] * (AT_ONCE - len(numbers))]]
        prompts = [request.prompt for request in filled]
        text = encoder.encode(prompts, prior.codes.text_length)
        conditions = Conditions(text=text, text_vector=Vectors(encoder.vectors_of(text), jnp.ones(AT_ONCE, bool)))
        vectors = prior.draw(conditions, keys_of_prompts(seed, prompts, [request.index for request in filled]))
        told = decoder.stage.space.to_vectors(np.asarray(vectors))
        for number, vector in zip(numbers, told, strict=False):
            drawn[number] = replace(requests[number], vector=vector)
    return drawn
