"""The one interface of text encoders, and the choice among them by name."""

import inspect
from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

from imagen_jax.array_types import Text
from imagen_jax.encoders.minilm import load_minilm
from imagen_jax.encoders.pretrained_t5 import load_t5
from imagen_jax.errors import UserError, lookup, nearest_name


@runtime_checkable
class TextEncoder(Protocol):
    """A frozen text encoder: captions in, the sequence of their tokens' embeddings out.

    Attributes:
        name: identifies its output: two encoders of one name give equal embeddings. Fit for a file name.
        width: the size of each token's embedding.
        max_tokens: the longest caption it reads; longer ones are truncated with a warning.
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


TEXT_ENCODERS: dict[str, Callable[..., TextEncoder]] = {"minilm": load_minilm, "t5": load_t5}


def load_text_encoder(name: str, **options) -> TextEncoder:
    """Returns the encoder of that name in ``TEXT_ENCODERS``. Its weights are read at the first ``encode`` only.

    Raises:
        UserError: there is no such encoder, or it has no such option.
    """
    load = lookup(TEXT_ENCODERS, name, "text encoder")
    known = inspect.signature(load).parameters
    for option in options:
        if option not in known:
            raise UserError(f"the text encoder {name!r} has no option {option!r}{nearest_name(option, known)}")
    return load(**options)
