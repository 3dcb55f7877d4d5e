"""Mirrored images, where no caption speaks against it.

A mirror keeps most pictures true. It does not keep writing, or what is to the left: images of such captions stay as
they are.
"""

import re

import numpy as np

from imagen_jax.data.pixels import SquarePixels

NOT_MIRRORED = re.compile(
    r"\b(left|right|(anti-?)?clockwise|east|west|text|texts|letters?|lettering|words?|writing|written|write|writes|reads?|"
    r"reading|says|saying|sign|signs|signpost|caption|title|titled|logo|logos|label|labelled|labeled|numbers?|numeral|"
    r"digits?|alphabet|calligraphy|spells?|spelled|slogan|poster|billboard|newspaper|map|clock)\b|[\"“”«»]",
    re.IGNORECASE,
)
"""Captions in which one of these is found speak of sides, turns, or what can be read."""


def may_mirror(caption: str) -> bool:
    """Whether a caption is as true of the mirrored picture."""
    return NOT_MIRRORED.search(caption) is None


def mirror_by_chance(pixels: SquarePixels, captions: tuple[str, ...], generator: np.random.Generator) -> SquarePixels:
    """Mirrors one in two pictures left to right, if all of their captions allow it."""
    if generator.random() < 0.5 and all(map(may_mirror, captions)):
        return pixels[:, ::-1]
    return pixels
