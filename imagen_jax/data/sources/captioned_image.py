"""Captioned images of small sources, rendered on demand at a given resolution."""

from collections.abc import Callable
from dataclasses import dataclass

from imagen_jax.array_types import HostPixels


@dataclass(frozen=True)
class CaptionedImage:
    """One captioned image of a source.

    Attributes:
        key: name within the source: unique, and the same on every machine.
        caption: description of the image.
        concept: subject that decides between training and validation; variants of one subject share it.
        fingerprint: text that changes when the image does: a version, or a file's size and time.
        render: ``render(resolution)`` returns its pixels, uint8, shape (resolution, resolution, 3).
    """

    key: str
    caption: str
    concept: str
    fingerprint: str
    render: Callable[[int], HostPixels]
