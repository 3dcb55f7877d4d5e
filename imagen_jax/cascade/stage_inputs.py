"""The inputs of a stage for one batch: what the samples shall be, what guidance leads away from, and random keys.

captions, classes, small images, a seed -> Conditions, their nulls, a key for each sample -> Inputs
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from imagen_jax.array_types import Keys, LowResolution, Samples, SmallImages, Text
from imagen_jax.cascade.stage import Stage
from imagen_jax.data.classes import NO_CLASS
from imagen_jax.diffusion.conditions import Conditions, Labels, TokenSequence, Vectors, null
from imagen_jax.encoders.caption_tokens import CaptionTokenizer, pad_tokens
from imagen_jax.encoders.embedding_store import Embeddings, pad_text
from imagen_jax.encoders.encoder import vectors_reader
from imagen_jax.errors import lookup
from imagen_jax.runtime.seeds import check_seed
from imagen_jax.sampling.edits import Known


class Inputs(NamedTuple):
    """The inputs of a stage for one batch; all of them are arrays.

    Attributes:
        conditions: what the samples shall be. Its low-resolution images are clean: those of the previous stage.
        unwanted: what guidance leads away from: the nulls of the conditions, or a negative prompt. The low-resolution
            images are those of ``conditions``.
        keys: one random key per sample.
        clean: clean samples, noised to the first log-SNR to start from; None for pure noise.
        start: noisy samples at the first log-SNR to start from, instead of ``clean`` or noise.
        known: known samples and the mask of the values to keep; None for none.
    """

    conditions: Conditions
    unwanted: Conditions
    keys: Keys
    clean: Samples | None = None
    start: Samples | None = None
    known: Known | None = None

    def with_low_resolution(self, images: SmallImages | None) -> "Inputs":
        """Returns the inputs with the previous stage's images; None leaves them out."""
        low = None if images is None else LowResolution(images)
        return self._replace(conditions=self.conditions._replace(low_resolution=low))


def hand_on(inputs: Inputs, made: Samples | None, takes: Sequence[bool] | None = None) -> Inputs:
    """Returns the inputs with what the previous stage made: an image to enlarge, or the vector of an image.

    Args:
        inputs: the inputs of a stage.
        made: images, or vectors of images, of the stage before it; None for the first stage.
        takes: whether each example takes the vector; None if all do. Others keep what their inputs have, if anything.
    """
    if made is None or made.ndim > 2:
        return inputs.with_low_resolution(made)
    vector = Vectors(jnp.asarray(made), jnp.ones(len(made), bool))
    own = inputs.conditions.image_vector
    if takes is not None and own is not None:
        taken = jnp.asarray(takes)
        vector = Vectors(jnp.where(taken[:, None], vector.values, own.values), taken | own.present)
    return inputs._replace(conditions=inputs.conditions._replace(image_vector=vector))


def make_inputs(conditions: Conditions, keys: Keys, unwanted: Conditions | None = None) -> Inputs:
    """Makes the inputs of a batch; ``unwanted`` is by default the null of the conditions."""
    unwanted = null(conditions) if unwanted is None else unwanted
    return Inputs(conditions, unwanted._replace(low_resolution=None), keys)


def inputs_of_captions(
    stage: Stage,
    store: Embeddings | None,
    captions: Sequence[str],
    seed: int,
    small: SmallImages | None = None,
    tokenizer: CaptionTokenizer | None = None,
    index: int = 0,
    image_vectors: Mapping[str, np.ndarray] | None = None,
) -> Inputs:
    """Makes the inputs of one sample for each caption, without a cascade: for previews and evaluations in training.

    Args:
        stage: the stage.
        store: embeddings of the captions; None for a stage without text.
        captions: the captions, or names of classes for a stage without text; two that are equal give the same sample.
        seed: random seed of the noise.
        small: the images that a super-resolution stage enlarges; None for a base.
        tokenizer: the tokenizer of a stage that is told token ids.
        index: which of the samples of a caption.
        image_vectors: the vector of an image of each caption, for a stage that is told one; it is absent for others.
    """
    text = None
    if store is not None and stage.text_length:
        padded = pad_text(store.lookup(list(captions), stage.text_length), stage.text_length)
        text = jax.tree.map(jnp.asarray, padded)
    is_told = stage.reads_captions or stage.classes is not None
    keys = keys_of_prompts(seed, captions, [index] * len(captions) if is_told else range(len(captions)))
    tokens = tokens_of(stage, tokenizer, captions)
    conditions = Conditions(text=text, tokens=tokens, label=labels_of(stage, captions))
    conditions = with_vectors(stage, conditions, len(captions), vectors_reader(store))
    if stage.image_vector and image_vectors:
        none = np.zeros(stage.image_vector, np.float32)
        values = np.stack([image_vectors.get(caption, none) for caption in captions])
        present = np.array([caption in image_vectors for caption in captions])
        conditions = conditions._replace(image_vector=Vectors(jnp.asarray(values), jnp.asarray(present)))
    return make_inputs(conditions, keys).with_low_resolution(small)


def tokens_of(stage: Stage, tokenizer: CaptionTokenizer | None, captions: Sequence[str]) -> TokenSequence | None:
    """Returns the token ids of captions; None for a stage that is told none."""
    if not stage.token_length:
        return None
    assert tokenizer is not None, "a stage with token ids needs its tokenizer"
    return jax.tree.map(jnp.asarray, pad_tokens(tokenizer.read(captions, stage.token_length), stage.token_length))


def with_vectors(
    stage: Stage, conditions: Conditions, count: int, vectors_of: Callable[[Text], Any] | None
) -> Conditions:
    """Returns the conditions with the vectors that a stage is told.

    Those of captions come from the text encoder, if it gives any; others are absent.

    Args:
        stage: the stage.
        conditions: the conditions, with their text.
        count: number of examples.
        vectors_of: the ``vectors_of`` of the text encoder; None if it has none.
    """

    def absent(width: int) -> Vectors | None:
        return Vectors(jnp.zeros((count, width)), jnp.zeros(count, bool)) if width else None

    of_text, of_image = absent(stage.text_vector), absent(stage.image_vector)
    if of_text is not None and vectors_of is not None and conditions.text is not None:
        of_text = Vectors(jnp.asarray(vectors_of(conditions.text)), jnp.ones(count, bool))
    return conditions._replace(text_vector=of_text, image_vector=of_image)


def labels_of(stage: Stage, prompts: Sequence[str]) -> Labels | None:
    """Returns the classes that prompts name; None for a stage that is told no class.

    A stage that also reads captions takes a prompt that names no class as one without a class.

    Raises:
        UserError: a stage without captions can't be told a prompt that names no class; names the nearest class.
    """
    if stage.classes is None:
        return None
    names = stage.classes.names
    for prompt in prompts:
        if prompt not in names and not stage.reads_captions:
            lookup(dict.fromkeys(names), prompt, "class, which the prompts of this stage name,")
    return to_labels([names.index(prompt) if prompt in names else NO_CLASS for prompt in prompts])


def to_labels(numbers: Sequence[int]) -> Labels:
    """Returns the labels of examples whose classes have these numbers, or ``NO_CLASS``."""
    classes = jnp.asarray(numbers, jnp.int32)
    return Labels(jnp.maximum(classes, 0), classes != NO_CLASS)


def to_host(inputs: Inputs) -> Inputs:
    """Copies inputs to the host, where random keys are plain numbers: the same in each process of a pod."""
    return jax.device_get(inputs._replace(keys=jax.random.key_data(inputs.keys)))


def from_host(inputs: Inputs) -> Inputs:
    """Reverses ``to_host``, also inside of a jitted function."""
    return inputs._replace(keys=jax.random.wrap_key_data(inputs.keys))


def keys_of_prompts(seed: int, prompts: Sequence[str], indices: Sequence[int]) -> Keys:
    """Returns one random key per image, independent of the other images of its batch.

    A key is a function of the seed, the prompt and the image's index among those of its prompt.

    Raises:
        UserError: the seed is invalid, see ``check_seed``.
    """
    seed = check_seed(seed)
    digests = [hashlib.sha256(prompt.encode()).digest() for prompt in prompts]
    words = np.array([int.from_bytes(digest[:4], "little") for digest in digests], np.uint32)

    def fold(word, index):
        return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), word), index)

    return jax.vmap(fold)(jnp.asarray(words), jnp.asarray(indices, jnp.uint32))
