"""The common interface of text encoders, and the choice of an encoder by name."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
from jaxtyping import Float

from imagen_jax.array_types import Text
from imagen_jax.encoders.clip_text import load_clip_text
from imagen_jax.encoders.minilm import load_minilm
from imagen_jax.encoders.pretrained_t5 import load_t5
from imagen_jax.errors import UserError, lookup, nearest_name


@runtime_checkable
class TextEncoder(Protocol):
    """A frozen text encoder: captions in, a sequence of token embeddings per caption out.

    Attributes:
        name: identifies its output. Two encoders of the same name give equal embeddings. Can be used as a file name.
        width: the size of each token's embedding.
        max_tokens: the max number of tokens of a caption. Longer captions are truncated with a warning.
    """

    @property
    def name(self) -> str: ...

    @property
    def width(self) -> int: ...

    @property
    def max_tokens(self) -> int: ...

    def encode(self, captions: Sequence[str], length: int | None = None) -> Text:
        """Returns float32 embeddings, zero at padding, and their mask; padded to ``length`` or the longest caption."""
        ...


@runtime_checkable
class VectorEncoder(TextEncoder, Protocol):
    """A text encoder that also gives one vector for each caption.

    Attributes:
        vector_width: number of channels of a vector.
    """

    @property
    def vector_width(self) -> int: ...

    def vectors_of(self, text: Text) -> Float[jax.Array, "batch channels"]:
        """Returns the vectors of encoded captions, with channels near a deviation of 1."""
        ...


def vectors_reader(source: object) -> Callable[[Text], Any] | None:
    """Returns the ``vectors_of`` of an encoder, or of a store of embeddings that one made; None if it has none."""
    return getattr(source, "vectors_of", None)


TEXT_ENCODERS: dict[str, Callable[..., TextEncoder]] = {"clip": load_clip_text, "minilm": load_minilm, "t5": load_t5}


def load_text_encoder(name: str, **options) -> TextEncoder:
    """Returns the encoder of that name in ``TEXT_ENCODERS``. Its weights are read only at the first ``encode``.

    Raises:
        UserError: there is no such encoder, or it has no such option.
    """
    load = lookup(TEXT_ENCODERS, name, "text encoder")
    known = inspect.signature(load).parameters
    for option in options:
        if option not in known:
            raise UserError(f"the text encoder {name!r} has no option {option!r}{nearest_name(option, known)}")
    return load(**options)
