"""Captioned images of small sources, rendered on demand at a given resolution."""

from collections.abc import Callable
from dataclasses import dataclass

from imagen_jax.array_types import HostPixels
from imagen_jax.errors import UserError


@dataclass(frozen=True)
class CaptionedImage:
    """One captioned image of a source.

    Attributes:
        key: name within the source: unique, and the same on every machine.
        caption: description of the image.
        concept: subject that decides between training and validation; variants of one subject share it.
        fingerprint: text that changes when the image does: a version, or a file's size and time.
        render: ``render(resolution)`` returns its pixels, uint8, shape (resolution, resolution, 3). It raises
            ``FaultyImageError`` if the image can't be used.
        more_captions: other descriptions of the image, of which training chooses one at random.
    """

    key: str
    caption: str
    concept: str
    fingerprint: str
    render: Callable[[int], HostPixels]
    more_captions: tuple[str, ...] = ()

    @property
    def captions(self) -> tuple[str, ...]:
        """All captions."""
        return self.caption, *self.more_captions


class FaultyImageError(UserError):
    """Raised for a single image that can't be used, such as one without a caption.

    Args:
        sentence: the message, which names the file.
        fault: a few words, equal for all images with the same fault, such as "no caption".
    """

    def __init__(self, sentence: str, fault: str):
        super().__init__(sentence)
        self.fault = fault
