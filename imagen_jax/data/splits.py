"""Assigns examples to training or validation by a hash of their concept alone.

So the assignment is the same on every machine and in every run, and does not change when other images are added or
removed.
"""

import hashlib
from collections.abc import Callable
from functools import partial
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
    return "validation" if _hash(concept) / 2**64 < validation_fraction else "train"


def fold_of(concept: str, folds: int = 5) -> int:
    """Returns the fold of a concept for cross-validation, from 0 to ``folds`` - 1.

    Each fold validates once, with a model that trains on the other folds. Fold 0 contains the concepts that
    ``split_of`` assigns to validation at the fraction 1 / ``folds``, because both use the same hash.

    Args:
        concept: subject of the image; variants of an image share it.
        folds: number of folds, 2 or more. The expected size of each is the same.

    Raises:
        UserError: there are fewer than two folds.
    """
    if folds < 2:
        raise UserError(f"{folds} folds cannot hold anything out: choose 2 or more")
    return _hash(concept) * folds >> 64


def make_splitter(validation_fraction: float = 0.05, fold: int | None = None, folds: int = 5) -> Callable[[str], Split]:
    """Returns the function that assigns a concept to a split.

    Args:
        validation_fraction: expected fraction of concepts in the validation split, in [0, 1); unused with a fold.
        fold: fold that validates, see ``fold_of``; None for ``split_of``.
        folds: number of folds.

    Raises:
        UserError: the fraction or the fold is out of range.
    """
    if fold is None:
        split_of("", validation_fraction)  # Fail early, also without any concept.
        return partial(split_of, validation_fraction=validation_fraction)
    fold_of("", folds)
    if not 0 <= fold < folds:
        raise UserError(f"fold {fold} of {folds} does not exist: choose 0 to {folds - 1}")
    return lambda concept: "validation" if fold_of(concept, folds) == fold else "train"


def _hash(concept: str) -> int:
    """Returns a uniformly distributed integer, from 0 to below 2**64."""
    return int.from_bytes(hashlib.sha256(concept.encode("utf-8")).digest()[:8], "big")
