"""What every source gives: captioned images that are drawn when asked for, at the resolution asked for."""

from collections.abc import Callable
from dataclasses import dataclass

from imagen_jax.array_types import HostPixels


@dataclass(frozen=True)
class CaptionedImage:
    """One captioned image of a source.

    Attributes:
        key: its name within the source: unique, and the same on every machine.
        caption: what it shows.
        concept: what the split into train and validation goes by; variants of one motif share it.
        fingerprint: changes when the picture does: a version, or a file's size and time.
        render: ``render(resolution)`` draws it, square.
    """

    key: str
    caption: str
    concept: str
    fingerprint: str
    render: Callable[[int], HostPixels]
