"""Makes the inputs of a stage from requests: text by the encoder, noise by the seeds, start images by the edit.

requests of a batch, an edit -> keys, encoded prompts, classes, start or known images -> ``stage_sampler.Inputs``
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from imagen_jax.array_types import Keys, Text
from imagen_jax.cascade.edits import NO_EDIT, Edit
from imagen_jax.cascade.given_latents import with_given_noise, with_image_vectors
from imagen_jax.cascade.loading import TrainedStage
from imagen_jax.cascade.plans import NULL_CAPTIONS
from imagen_jax.cascade.requests import ImageRequest
from imagen_jax.cascade.stage import Stage
from imagen_jax.cascade.stage_inputs import Inputs, keys_of_prompts, labels_of, make_inputs, tokens_of, with_vectors
from imagen_jax.cascade.stage_sampler import starting_noise
from imagen_jax.data.pixels import with_channels
from imagen_jax.diffusion.conditions import Conditions, mix_texts, null
from imagen_jax.encoders.caption_tokens import CaptionTokenizer
from imagen_jax.encoders.encoder import TextEncoder, vectors_reader
from imagen_jax.errors import UserError
from imagen_jax.sampling.edits import Known, interpolate
from imagen_jax.sampling.sampler import fold_into_each


class RequestInputs:
    """Makes inputs of any stage that shares a text encoder.

    Args:
        encoder: the text encoder; None if no stage has text.
        tokenizer: the tokenizer; None if no stage is told token ids.
    """

    def __init__(self, encoder: TextEncoder | None, tokenizer: CaptionTokenizer | None = None) -> None:
        self._encoder, self._tokenizer = encoder, tokenizer

    def make(
        self,
        trained: TrainedStage,
        stage: Stage,
        number: int,
        requests: Sequence[ImageRequest],
        seed: int = 0,
        negative_prompt: str | None = None,
        edit: Edit = NO_EDIT,
    ) -> Inputs:
        """Makes a stage's inputs for one batch, except the images of the previous stage.

        Args:
            trained: the stage with its config.
            stage: the stage with its sampling settings.
            number: index of the stage, from 0.
            requests: the requests of the batch.
            seed: random seed of the noise.
            negative_prompt: text that guidance uses instead of the null prompt.
            edit: an image to start from or to keep in part.
        """
        shares = jnp.asarray([request.share for request in requests], jnp.float32)
        keys = fold_into_each(keys_of_requests(requests, seed), number)
        prompts = [edit.prompt_of(request.prompt, number) for request in requests]
        told = self.read(stage, prompts)
        if any(request.to_prompt is not None for request in requests):
            check_mixes(stage)
            others = [edit.prompt_of(request.to_prompt or request.prompt, number) for request in requests]
            told = mix_captions(told, self.read(stage, others), shares)
        start = None
        if any(request.to_seed is not None for request in requests):
            to_keys = fold_into_each(keys_of_requests(requests, seed, to=True), number)
            noises = [starting_noise(each, stage.shape) for each in (keys, to_keys)]
            start = interpolate(noises[0], noises[1], shares)
        image, known = edit.images(stage.resolution, len(requests))
        channels = stage.shape[-1]
        if image is not None:
            image = with_channels(image, channels)
        if known is not None:
            known = with_channels(known[0], channels), known[1][..., :channels]
        start = with_given_noise(start, stage, requests, keys)
        null_is_encoded = NULL_CAPTIONS[trained.config.text.null] is not None
        told = with_image_vectors(told, stage, requests, lambda: self.embed(stage, prompts), null_is_encoded)
        conditions = told._replace(label=labels_of(stage, prompts))
        inputs = make_inputs(
            conditions, keys, self._unwanted(trained, stage, conditions, negative_prompt, len(requests))
        )
        return inputs._replace(clean=image, start=start, known=None if known is None else Known(*known))

    def read(self, stage: Stage, captions: Sequence[str]) -> Conditions:
        """Returns what captions tell a stage: their text, their token ids and their vectors, without a class."""
        conditions = Conditions(text=self.encode(stage, captions), tokens=tokens_of(stage, self._tokenizer, captions))
        return with_vectors(stage, conditions, len(captions), vectors_reader(self._encoder))

    def embed(self, stage: Stage, captions: Sequence[str]) -> Any:
        """Returns the embeddings of captions, ``(captions, width)``.

        Raises:
            UserError: the text encoder gives none.
        """
        reader = vectors_reader(self._encoder)
        if reader is None or self._encoder is None:
            raise UserError(
                "--conditioning=text_embedding needs stages whose text encoder is a CLIP's: leave it out, or sample "
                "stages that were trained with config.text.encoder='clip'"
            )
        return reader(self._encode_all(tuple(captions), stage.text_length or self._encoder.max_tokens))

    def encode(self, stage: Stage, captions: Sequence[str]) -> Text | None:
        """Encodes captions for a stage; None for a stage without text."""
        return self._encode_all(tuple(captions), stage.text_length) if stage.text_length else None

    @functools.cached_property
    def _encode_all(self) -> Callable[[tuple[str, ...], int], Text]:
        # All stages use the same captions for a batch, so their embeddings are cached.
        assert self._encoder is not None
        return functools.lru_cache(maxsize=4)(self._encoder.encode)

    def _unwanted(
        self, trained: TrainedStage, stage: Stage, conditions: Conditions, negative_prompt: str | None, count: int
    ) -> Conditions | None:
        """Returns what guidance leads away from: the negative prompt, or a null prompt that is a caption; else None."""
        if not stage.reads_captions:
            if negative_prompt is None or stage.classes is None:
                return None
            # A stage without text leads away from another class.
            return null(conditions)._replace(label=labels_of(stage, [negative_prompt] * count))
        caption = NULL_CAPTIONS[trained.config.text.null] if negative_prompt is None else negative_prompt
        if caption is None:
            return None
        # All examples share this caption. It is encoded once, because encoding may cost more than sampling.
        told = jax.tree.map(lambda array: jnp.repeat(array, count, axis=0), self.read(stage, [caption]))
        return null(conditions)._replace(text=told.text, tokens=told.tokens, text_vector=told.text_vector)


def check_mixes(stage: Stage) -> None:
    """Checks that a stage can be told something between two captions.

    Raises:
        UserError: it is told a class, or token ids, between which nothing is.
    """
    if stage.token_length:
        raise UserError(
            "--to_prompt mixes the embeddings of two prompts, and a stage is told their token ids: leave it out"
        )
    if not stage.text_length:
        raise UserError("--to_prompt has no effect on a stage without text, which is told a class: leave it out")


def mix_captions(one: Conditions, other: Conditions, shares: jax.Array) -> Conditions:
    """Returns the first conditions with text and vectors between both captions: 0 is the first, 1 the second."""
    assert one.text is not None and other.text is not None
    return mix_vectors(one._replace(text=mix_texts(one.text, other.text, shares)), other, shares)


def mix_vectors(one: Conditions, other: Conditions, shares: jax.Array) -> Conditions:
    """Returns the first conditions with the vectors of captions between both: 0 is the first, 1 the second."""
    if one.text_vector is None or other.text_vector is None:
        return one
    weights = shares[:, None]
    mixed = (1 - weights) * one.text_vector.values + weights * other.text_vector.values
    return one._replace(text_vector=one.text_vector._replace(values=mixed))


def keys_of_requests(requests: Sequence[ImageRequest], seed: int, to: bool = False) -> Keys:
    """Returns one key per image: from ``seed``, or with ``to`` from each request's ``to_seed`` where it has one."""
    prompts, indices = [request.prompt for request in requests], [request.index for request in requests]
    if not to:
        return keys_of_prompts(seed, prompts, indices)
    seeds = [seed if request.to_seed is None else request.to_seed for request in requests]
    keys = [
        keys_of_prompts(its_seed, [request.prompt], [request.index])
        for its_seed, request in zip(seeds, requests, strict=True)
    ]
    return jnp.concatenate(keys)
