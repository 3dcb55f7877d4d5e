"""Seeds: whole numbers from 0 to 2³² - 1, as many as JAX's random keys tell apart without 64-bit integers."""

import operator
import reprlib
from typing import Any

from imagen_jax.errors import UserError

MAX_SEED = 2**32 - 1


def check_seed(seed: Any, name: str = "seed") -> int:
    """Checks a seed, and returns it as Python's int.

    JAX keeps the lowest 32 bits of a larger seed, so other numbers would give the same images as one of these.

    Args:
        seed: from 0 to ``MAX_SEED``; NumPy's integers will do.
        name: of the seed in the message, such as a flag.

    Raises:
        UserError: it is no whole number, or out of range.
    """
    try:
        number = operator.index(seed)
    except TypeError:
        number = -1
    if isinstance(seed, bool) or not 0 <= number <= MAX_SEED:
        raise UserError(f"{name} is {reprlib.repr(seed)}: choose a whole number from 0 to {MAX_SEED}")
    return number
