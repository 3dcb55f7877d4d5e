"""Chooses the captions to sample images for: by a seed from a reference's captions, or from a user's file."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from imagen_jax.errors import UserError
from imagen_jax.evaluation.protocols.references import hash_lines


class CaptionChoice(NamedTuple):
    """The captions to sample images for.

    Attributes:
        captions: one caption for each sampled image.
        pictures: number in the reference of the image that each caption describes; None if unknown.
    """

    captions: tuple[str, ...]
    pictures: tuple[int, ...] | None

    @property
    def sha256(self) -> str:
        """The SHA-256 of the captions in their order, each as JSON in UTF-8, with line feeds between."""
        return hash_lines(self.captions)


def choose_captions(of_pictures: Sequence[tuple[str, ...]], count: int, seed: int) -> CaptionChoice:
    """Chooses distinct images and one caption of each; the same seed gives the same choice.

    Args:
        of_pictures: captions of each image of a reference.
        count: number of captions, from 1 to the number of images with captions.
        seed: seed of NumPy's default generator.

    Raises:
        UserError: ``count`` is out of range.
    """
    captioned = [number for number, captions in enumerate(of_pictures) if captions]
    if not 1 <= count <= len(captioned):
        raise UserError(
            f"{count} captions can't be chosen of {len(captioned)} pictures, each once: choose --samples of at least 1 "
            f"and at most {len(captioned)}"
        )
    generator = np.random.default_rng(seed)
    pictures = [captioned[place] for place in generator.permutation(len(captioned))[:count]]
    # One random number for each image, whatever the count: a smaller choice is then a prefix of a larger one.
    shares = generator.random(len(captioned))[:count]
    chosen = zip((of_pictures[number] for number in pictures), shares, strict=True)
    captions = [own[int(share * len(own))] for own, share in chosen]
    return CaptionChoice(tuple(captions), tuple(pictures))


def match_captions(of_pictures: Sequence[tuple[str, ...]], captions: Sequence[str]) -> CaptionChoice:
    """Finds the reference's image for each caption of a user's list.

    Runs of whitespace in a caption count as one space. A caption of several images gets the first of them.

    Raises:
        UserError: a caption is not among the reference's captions; the message names the first such caption.
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
