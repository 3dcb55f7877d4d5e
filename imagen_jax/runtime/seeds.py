"""Seeds: integers from 0 to 2³² - 1, the values that JAX's random keys distinguish without 64-bit integers."""

import operator
import reprlib
from typing import Any

from imagen_jax.errors import UserError

MAX_SEED = 2**32 - 1


def check_seed(seed: Any, name: str = "seed") -> int:
    """Checks a seed and returns it as a Python int.

    JAX keeps only the lowest 32 bits of a larger seed, so such a seed would repeat the images of a valid one.

    Args:
        seed: integer from 0 to ``MAX_SEED``, of Python or NumPy.
        name: name of the seed in the message, such as a flag.

    Raises:
        UserError: the seed is not an integer, or is out of range.
    """
    try:
        number = operator.index(seed)
    except TypeError:
        number = -1
    if isinstance(seed, bool) or not 0 <= number <= MAX_SEED:
        raise UserError(f"{name} is {reprlib.repr(seed)}: choose a whole number from 0 to {MAX_SEED}")
    return number
