"""Which captions are drawn: so many, by a seed, of the captions of a reference, or those of a file."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from imagen_jax.errors import UserError
from imagen_jax.evaluation.protocols.references import hash_lines


class CaptionChoice(NamedTuple):
    """Captions to draw.

    Attributes:
        captions: one for each picture that is drawn.
        pictures: the number in the reference of the picture that each describes; None where that is not known.
    """

    captions: tuple[str, ...]
    pictures: tuple[int, ...] | None

    @property
    def sha256(self) -> str:
        """Of the captions in their order, each as JSON in UTF-8, with line feeds between."""
        return hash_lines(self.captions)


def choose_captions(of_pictures: Sequence[tuple[str, ...]], count: int, seed: int) -> CaptionChoice:
    """Chooses pictures without repetition, and of each one caption; the same seed gives the same.

    Args:
        of_pictures: the captions of each picture of a reference.
        count: how many.
        seed: of NumPy's default generator.

    Raises:
        UserError: so many pictures with captions there are not.
    """
    captioned = [number for number, captions in enumerate(of_pictures) if captions]
    if not 1 <= count <= len(captioned):
        raise UserError(
            f"{count} captions can't be chosen of {len(captioned)} pictures, each once: choose --samples of at least 1 "
            f"and at most {len(captioned)}"
        )
    generator = np.random.default_rng(seed)
    pictures = [captioned[place] for place in generator.permutation(len(captioned))[:count]]
    # One draw each, whatever the counts: choosing fewer gives the beginning of choosing more.
    shares = generator.random(len(captioned))[:count]
    chosen = zip((of_pictures[number] for number in pictures), shares, strict=True)
    captions = [own[int(share * len(own))] for own, share in chosen]
    return CaptionChoice(tuple(captions), tuple(pictures))


def match_captions(of_pictures: Sequence[tuple[str, ...]], captions: Sequence[str]) -> CaptionChoice:
    """The captions of somebody's list, each with the picture of the reference that it describes.

    Raises:
        UserError: one is none of the reference's; names it.
    """
    pictures: dict[str, int] = {}
    for number, own in enumerate(of_pictures):
        for caption in own:
            pictures.setdefault(caption, number)
    cleaned = [" ".join(caption.split()) for caption in captions]
    strange = [caption for caption in cleaned if caption not in pictures]
    if strange:
        raise UserError(
            f"{len(strange)} of {len(captions)} captions of the list are none of the data set's, the first is "
            f"{strange[0]!r}: give a list of its captions, or leave --captions_file out"
        )
    return CaptionChoice(tuple(cleaned), tuple(pictures[caption] for caption in cleaned))
