"""Mirrors images whose captions stay true when mirrored.

Most captions stay true. Captions that mention writing or sides, such as "left", do not: their images are not mirrored.
"""

import re

import numpy as np

NOT_MIRRORED = re.compile(
    r"\b(left|right|(anti-?)?clockwise|east|west|text|texts|letters?|lettering|words?|writing|written|write|writes|reads?|"
    r"reading|says|saying|sign|signs|signpost|caption|title|titled|logo|logos|label|labelled|labeled|numbers?|numeral|"
    r"digits?|alphabet|calligraphy|spells?|spelled|slogan|poster|billboard|newspaper|map|clock)\b|[\"“”«»]",
    re.IGNORECASE,
)
"""Pattern of captions that mention sides, turns, or readable text."""


def may_mirror(caption: str) -> bool:
    """Returns whether a caption stays true when its image is mirrored."""
    return NOT_MIRRORED.search(caption) is None


def choose_mirror(captions: tuple[str, ...], generator: np.random.Generator) -> bool:
    """Returns whether to mirror an image: with probability 1/2, if all of its captions allow it."""
    return generator.random() < 0.5 and all(map(may_mirror, captions))
