"""Chooses each rater's order of pairs, the model on the left, and names that reveal no model.

Everything is derived from the database's secret by HMAC (RFC 2104). The order, the sides and the names of pairs also
depend on the rater's name. So a rater who returns, to this server or a later one, gets the same order and sides.
Without the secret, the two sides can't be told apart.
"""

import hashlib
import hmac
import json
from collections.abc import Sequence
from typing import NamedTuple

from imagen_jax.web.pairs import Pair

NAME_LENGTH = 24


class Dealt(NamedTuple):
    """A pair as shown to one rater.

    Attributes:
        name: name of the pair in the browser, different for each rater.
        pair: the pair.
        left: model on the left side, "a" or "b".
    """

    name: str
    pair: Pair
    left: str


def hide(secret: bytes, *values: str | int) -> str:
    """Returns ``NAME_LENGTH`` pseudorandom hexadecimal digits that depend only on the secret and the values."""
    return hmac.digest(secret, json.dumps(values).encode(), hashlib.sha256).hex()[:NAME_LENGTH]


def deal(secret: bytes, rater: str, pairs: Sequence[Pair]) -> list[Dealt]:
    """Returns all pairs in the order of one rater."""
    in_order = sorted(pairs, key=lambda pair: hide(secret, "order", rater, pair.key))
    return [Dealt(hide(secret, "pair", rater, pair.key), pair, left_of(secret, rater, pair)) for pair in in_order]


def left_of(secret: bytes, rater: str, pair: Pair) -> str:
    """Returns the model on the left side for a rater: "a" or "b", each with probability 1/2."""
    return "ab"[int(hide(secret, "left", rater, pair.key), 16) % 2]


def image_name(secret: bytes, pair: Pair, side: str, number: int) -> str:
    """Returns the name of an image in the browser's requests."""
    return hide(secret, "picture", pair.key, side, number)
