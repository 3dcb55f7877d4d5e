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
        images: number in the reference of the image that each caption describes; None if unknown.
    """

    captions: tuple[str, ...]
    images: tuple[int, ...] | None

    @property
    def sha256(self) -> str:
        """The SHA-256 of the captions in their order, each as JSON in UTF-8, with line feeds between."""
        return hash_lines(self.captions)


def choose_captions(captions_of: Sequence[tuple[str, ...]], count: int, seed: int) -> CaptionChoice:
    """Chooses distinct images and one caption of each; the same seed gives the same choice.

    Args:
        captions_of: captions of each image of a reference.
        count: number of captions, from 1 to the number of images with captions.
        seed: seed of NumPy's default generator.

    Raises:
        UserError: ``count`` is out of range.
    """
    captioned = [number for number, captions in enumerate(captions_of) if captions]
    if not 1 <= count <= len(captioned):
        raise UserError(
            f"{count} captions can't be chosen from {len(captioned)} images with captions: set --samples from 1 to "
            f"{len(captioned)}"
        )
    generator = np.random.default_rng(seed)
    images = [captioned[index] for index in generator.permutation(len(captioned))[:count]]
    # One random number for each image, whatever the count: a smaller choice is then a prefix of a larger one.
    shares = generator.random(len(captioned))[:count]
    chosen = zip((captions_of[number] for number in images), shares, strict=True)
    captions = [own[int(share * len(own))] for own, share in chosen]
    return CaptionChoice(tuple(captions), tuple(images))


def match_captions(captions_of: Sequence[tuple[str, ...]], captions: Sequence[str]) -> CaptionChoice:
    """Finds the reference's image for each caption of a user's list.

    Runs of whitespace in a caption count as one space. A caption of several images gets the first of them.

    Raises:
        UserError: a caption is not among the reference's captions; the message names the first such caption.
    """
    images: dict[str, int] = {}
    for number, own in enumerate(captions_of):
        for caption in own:
            images.setdefault(caption, number)
    cleaned = [" ".join(caption.split()) for caption in captions]
    unknown = [caption for caption in cleaned if caption not in images]
    if unknown:
        raise UserError(
            f"{len(unknown)} of {len(captions)} captions in the file are not in the data set, for example "
            f"{unknown[0]!r}: give captions of the data set, or leave --captions_file out"
        )
    return CaptionChoice(tuple(cleaned), tuple(images[caption] for caption in cleaned))
