r"""What a network is told beside the noisy sample and its log-SNR, as one tree; its dropout, and its nulls.

Classifier-free guidance (Ho & Salimans 2022, algorithm 1) needs a network that also works without its condition. So
training drops the condition c of some examples,

    c ← null    with probability p, for each example                                            (1)

and sampling leads away from the null. Imagen drops the text of 10% of the examples (section 2.2). DALL·E 2's decoder
drops the image embedding of 10% and, independently, the caption of 50%; its prior drops all of its text at once, for
10% (Ramesh et al. 2022, sections 2.1 and 2.2). ``drop`` does both.

The null of a text is zeros, with one token in the mask, so that the network sees the same null whatever length a
batch's captions are padded to. The null of token ids is the empty caption: padding alone, for which a text transformer
has learned vectors (Nichol et al. 2021, section 4.1). The nulls of vectors and labels are marked as absent, and the
network puts a learned vector in their place (``models.conditioning``). The low-resolution image is never dropped.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from imagen_jax.array_types import LowResolution, PerExample, RandomKey, Text, TokenIds, TokenMask


class TokenSequence(NamedTuple):
    """Captions as token ids, for a text network that is trained along.

    Attributes:
        ids: ``(batch, tokens)``; any number at padding positions.
        mask: ``(batch, tokens)``; True at tokens, False at padding.
    """

    ids: TokenIds
    mask: TokenMask


class Vectors(NamedTuple):
    """One vector for each example, such as a CLIP embedding.

    Attributes:
        values: ``(batch, width)``.
        present: ``(batch,)``; False for examples without the vector, whose values are not read.
    """

    values: Float[Array, "batch width"]
    present: Bool[Array, " batch"]


class Labels(NamedTuple):
    """One class for each example.

    Attributes:
        classes: ``(batch,)``, from 0.
        present: ``(batch,)``; False for examples without a class.
    """

    classes: Int[Array, " batch"]
    present: Bool[Array, " batch"]


class Conditions(NamedTuple):
    """What a network is told. A part is None where no example has it.

    Attributes:
        text: captions as a frozen text encoder's sequences.
        tokens: captions as token ids.
        text_vector: one vector for each caption, such as CLIP's text embedding.
        image_vector: one vector for each image, such as CLIP's image embedding.
        label: the class of each example.
        low_resolution: the image that a super-resolution stage enlarges.
    """

    text: Text | None = None
    tokens: TokenSequence | None = None
    text_vector: Vectors | None = None
    image_vector: Vectors | None = None
    label: Labels | None = None
    low_resolution: LowResolution | None = None

    @property
    def given(self) -> tuple[str, ...]:
        """The names of the parts that are there."""
        return tuple(name for name, part in zip(self._fields, self, strict=True) if part is not None)


UNCONDITIONAL = Conditions()

DROPPED = tuple(name for name in Conditions._fields if name != "low_resolution")
"""The names of the parts that can be dropped."""


def null_text(text: Text) -> Text:
    """Returns the null text in the shape of ``text``: zero embeddings, and one token in the mask."""
    mask = jnp.zeros_like(text.mask).at[:, 0].set(True)
    return Text(jnp.zeros_like(text.embeddings), mask)


def null(conditions: Conditions) -> Conditions:
    """Returns what guidance leads away from: the null of every part that can be dropped."""

    def null_part(part: Any) -> Any:
        match part:
            case Text():
                return null_text(part)
            case TokenSequence():
                return TokenSequence(jnp.zeros_like(part.ids), jnp.zeros_like(part.mask))
            case Vectors() | Labels():
                return part._replace(present=jnp.zeros_like(part.present))
        return part

    return Conditions(**{name: null_part(part) for name, part in conditions._asdict().items()})


def drop(
    conditions: Conditions, key: RandomKey, rates: Mapping[str, float | PerExample], together: bool = False
) -> Conditions:
    """Replaces parts of each example's conditions by their nulls. Equation (1).

    Args:
        conditions: the conditions of a batch.
        key: random key.
        rates: the probability p of parts, by their names in ``DROPPED``; a part without a rate is kept.
        together: whether one random number decides about all parts of an example, so that parts of equal rates are
            dropped together; else each part has its own, except that a caption's text and tokens share one.
    """
    nulls = null(conditions)
    parts = {}
    for number, name in enumerate(DROPPED):
        part, rate = getattr(conditions, name), rates.get(name)
        if part is None or rate is None:
            continue
        # The text's key is the key itself, so that trainings with a text alone go on as they began. Its token ids are
        # the same caption, so they are dropped with it.
        own = key if together or name in ("text", "tokens") else jax.random.fold_in(key, number)
        dropped = jax.random.bernoulli(own, rate, part[-1].shape[:1])
        parts[name] = jax.tree.map(
            lambda there, not_there, dropped=dropped: jnp.where(
                dropped.reshape(dropped.shape + (1,) * (there.ndim - 1)), not_there, there
            ),
            part,
            getattr(nulls, name),
        )
    return conditions._replace(**parts)


def mix_texts(first: Text, second: Text, shares: PerExample) -> Text:
    """Interpolates linearly between two texts, token by token; the mask is True where either text has a token."""
    share = shares[:, None, None]
    return Text((1.0 - share) * first.embeddings + share * second.embeddings, first.mask | second.mask)


def in_float32(conditions: Conditions) -> Conditions:
    """Casts the arrays of floats to float32, the input dtype of networks. They cast to their own compute dtype."""
    return jax.tree.map(
        lambda array: array.astype(jnp.float32) if jnp.issubdtype(array.dtype, jnp.floating) else array, conditions
    )
