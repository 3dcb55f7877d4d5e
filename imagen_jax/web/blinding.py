"""How pairs are dealt to raters: whose picture is on the left, what comes when, and names that tell nothing.

All of it follows from a secret of the database and the rater's name by HMAC (RFC 2104), so a rater who comes back, to
this server or the next one, is dealt the same; and who lacks the secret can't tell one side from the other.
"""

import hashlib
import hmac
import json
from collections.abc import Sequence
from typing import NamedTuple

from imagen_jax.web.pairs import Pair

NAME_LENGTH = 24


class Dealt(NamedTuple):
    """A pair as one rater is shown it.

    Attributes:
        name: for the browser; other raters have other ones.
        pair: what is compared.
        left: whose pictures are on the left, "a" or "b".
    """

    name: str
    pair: Pair
    left: str


def hide(secret: bytes, *told: str | int) -> str:
    """Hexadecimal digits that look random and are the same for the same secret and words."""
    return hmac.digest(secret, json.dumps(told).encode(), hashlib.sha256).hex()[:NAME_LENGTH]


def deal(secret: bytes, rater: str, pairs: Sequence[Pair]) -> list[Dealt]:
    """All pairs in the order in which a rater gets them."""
    in_order = sorted(pairs, key=lambda pair: hide(secret, "order", rater, pair.key))
    return [Dealt(hide(secret, "pair", rater, pair.key), pair, left_of(secret, rater, pair)) for pair in in_order]


def left_of(secret: bytes, rater: str, pair: Pair) -> str:
    """Whose pictures a rater has on the left: "a" for half of all pairs, by chance."""
    return "ab"[int(hide(secret, "left", rater, pair.key), 16) % 2]


def picture_name(secret: bytes, pair: Pair, side: str, number: int) -> str:
    """The name by which a browser asks for a picture."""
    return hide(secret, "picture", pair.key, side, number)
