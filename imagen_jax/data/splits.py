"""Assigns examples to training or validation by a hash of their concept alone.

So the assignment is the same on every machine and in every run, and does not change when other images are added or
removed.
"""

import hashlib
from typing import Literal

from imagen_jax.errors import UserError

Split = Literal["train", "validation"]

SPLITS: tuple[Split, ...] = ("train", "validation")


def split_of(concept: str, validation_fraction: float = 0.05) -> Split:
    """Returns the split of a concept.

    A concept of the validation split stays there when the fraction grows: one that validates at 0.05 also validates at
    0.1.

    Args:
        concept: subject of the image; variants of an image share it.
        validation_fraction: expected fraction of concepts in the validation split, in [0, 1).

    Raises:
        UserError: the fraction is out of range.
    """
    if not 0 <= validation_fraction < 1:
        raise UserError(f"the validation fraction is {validation_fraction}: choose one from 0 to below 1")
    digest = hashlib.sha256(concept.encode("utf-8")).digest()
    uniform = int.from_bytes(digest[:8], "big") / 2**64
    return "validation" if uniform < validation_fraction else "train"
