"""Makes the inputs of a stage from requests: text by the encoder, noise by the seeds, start images by the edit.

requests of a batch, an edit -> keys, encoded prompts, classes, start or known images -> ``stage_sampler.Inputs``
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from imagen_jax.array_types import Keys, Samples, Text
from imagen_jax.cascade.edits import NO_EDIT, Edit
from imagen_jax.cascade.loading import TrainedStage
from imagen_jax.cascade.plans import NULL_CAPTIONS
from imagen_jax.cascade.requests import ImageRequest
from imagen_jax.cascade.stage import Stage
from imagen_jax.cascade.stage_inputs import Inputs, keys_of_prompts, labels_of, make_inputs, with_vectors
from imagen_jax.cascade.stage_sampler import starting_noise
from imagen_jax.data.pixels import with_channels
from imagen_jax.diffusion.conditions import Conditions, Vectors, mix_texts, null, null_text
from imagen_jax.encoders.encoder import TextEncoder, vectors_reader
from imagen_jax.errors import UserError
from imagen_jax.sampling.edits import Known, interpolate
from imagen_jax.sampling.sampler import fold_into_each


class RequestInputs:
    """Makes inputs of any stage that shares a text encoder.

    Args:
        encoder: the text encoder; None if no stage has text.
    """

    def __init__(self, encoder: TextEncoder | None) -> None:
        self._encoder = encoder

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
        text = self.encode(stage, prompts)
        vectors_of = vectors_reader(self._encoder)
        told = with_vectors(stage, Conditions(text=text), len(requests), vectors_of)
        if text is None and any(request.to_prompt is not None for request in requests):
            raise UserError("--to_prompt has no effect on a stage without text, which is told a class: leave it out")
        if text is not None and any(request.to_prompt is not None for request in requests):
            second = self.encode(
                stage, [edit.prompt_of(request.to_prompt or request.prompt, number) for request in requests]
            )
            assert second is not None
            to_told = with_vectors(stage, Conditions(text=second), len(requests), vectors_of)
            told = mix_vectors(told, to_told, shares)
            text = mix_texts(text, second, shares)
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
        start = start_noise(stage, requests, keys, start)
        if text is not None:
            text = without_captions(text, [one.vector is not None and not one.prompt for one in requests])
        told = told._replace(image_vector=self.image_vectors(stage, requests, prompts, told.image_vector))
        conditions = told._replace(text=text, label=labels_of(stage, prompts))
        inputs = make_inputs(
            conditions, keys, self._unwanted(trained, stage, conditions, negative_prompt, len(requests))
        )
        return inputs._replace(clean=image, start=start, known=None if known is None else Known(*known))

    def image_vectors(
        self, stage: Stage, requests: Sequence[ImageRequest], prompts: Sequence[str], absent: Vectors | None
    ) -> Vectors | None:
        """Returns the image embeddings that requests bring along, or take from their captions; others are absent.

        Raises:
            UserError: one has another width than the decoder takes, or the text encoder gives no vectors.
        """
        if absent is None:
            return None
        values, present = np.array(absent.values), np.array(absent.present)
        if any(request.conditioning == "text_embedding" for request in requests):
            reader = vectors_reader(self._encoder)
            if reader is None or self._encoder is None:
                raise UserError(
                    "--conditioning=text_embedding needs stages whose text encoder is a CLIP's: leave it out of the "
                    "list, or sample stages that were trained with config.text.encoder='clip'"
                )
            length = stage.text_length or self._encoder.max_tokens
            of_captions = np.asarray(reader(self._encode_all(tuple(prompts), length)))
            check_vector(of_captions[0], stage.image_vector)
            for row, request in enumerate(requests):
                if request.conditioning == "text_embedding":
                    values[row], present[row] = of_captions[row], True
        for row, request in enumerate(requests):
            if request.vector is not None:
                check_vector(np.asarray(request.vector), stage.image_vector)
                values[row], present[row] = request.vector, True
        return Vectors(jnp.asarray(values), jnp.asarray(present))

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
        if conditions.text is None:
            if negative_prompt is None or stage.classes is None:
                return None
            # A stage without text leads away from another class.
            return null(conditions)._replace(label=labels_of(stage, [negative_prompt] * count))
        caption = NULL_CAPTIONS[trained.config.text.null] if negative_prompt is None else negative_prompt
        if caption is None:
            return None
        # All examples share this caption. It is encoded once, because encoding may cost more than sampling.
        told = with_vectors(stage, Conditions(text=self.encode(stage, [caption])), 1, vectors_reader(self._encoder))
        told = jax.tree.map(lambda array: jnp.repeat(array, count, axis=0), told)
        return null(conditions)._replace(text=told.text, text_vector=told.text_vector)


def without_captions(text: Text, without: Sequence[bool]) -> Text:
    """Returns a text with the null in the place of some captions: those of requests that bring an embedding alone."""
    nothing, rows = null_text(text), jnp.asarray(without)
    embeddings = jnp.where(rows[:, None, None], nothing.embeddings, text.embeddings)
    return Text(embeddings, jnp.where(rows[:, None], nothing.mask, text.mask))


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


def start_noise(stage: Stage, requests: Sequence[ImageRequest], keys: Keys, start: Samples | None) -> Samples | None:
    """Returns the noise to start from: of requests that bring it along, in the first stage of images.

    Args:
        stage: the stage.
        requests: the requests.
        keys: their keys, for the noise of the others.
        start: the noise so far; None for that of the keys.

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
