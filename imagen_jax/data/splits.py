"""Which examples train and which validate: decided by a hash of the concept alone.

So the answer is the same on every machine and in every run, and stays when other images come or go.
"""

import hashlib
from typing import Literal

from imagen_jax.errors import UserError

Split = Literal["train", "validation"]

SPLITS: tuple[Split, ...] = ("train", "validation")


def split_of(concept: str, validation_fraction: float = 0.05) -> Split:
    """Returns the split of a concept.

    A concept keeps its place when the fraction grows: what validates at 0.05 validates at 0.1 too.

    Args:
        concept: what the image shows; variants share it.
        validation_fraction: expected share of concepts that validate, in [0, 1).

    Raises:
        UserError: the fraction is out of range.
    """
    if not 0 <= validation_fraction < 1:
        raise UserError(f"the validation fraction is {validation_fraction}: choose one from 0 to below 1")
    digest = hashlib.sha256(concept.encode("utf-8")).digest()
    uniform = int.from_bytes(digest[:8], "big") / 2**64
    return "validation" if uniform < validation_fraction else "train"
