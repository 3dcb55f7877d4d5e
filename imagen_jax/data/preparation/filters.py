"""Rules that drop images and captions. Dropped images are counted under the rule's name.

Dropping a caption keeps the image and its other captions. An image without any caption left is dropped.
"""

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from imagen_jax.errors import UserError

COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
}
CONDITION = re.compile(r"\s*([^<>=!]+?)\s*(>=|<=|==|!=|>|<)\s*(.+?)\s*")


class Condition(NamedTuple):
    """A comparison of a metadata value with a bound, such as ``aesthetic >= 5``.

    Attributes:
        column: name of the metadata value.
        comparison: a key of ``COMPARISONS``.
        bound: a number, or text for ``==`` and ``!=``.
    """

    column: str
    comparison: str
    bound: float | str

    def holds(self, metadata: Mapping[str, Any]) -> bool:
        """Returns whether a record has the column and fulfils the condition; text is parsed for a numeric bound."""
        value = metadata.get(self.column)
        if isinstance(self.bound, float):
            try:
                value = float(value)  # type: ignore[arg-type]
            except (TypeError, ValueError, OverflowError):
                return False
        elif value is None:
            return False
        return COMPARISONS[self.comparison](value, self.bound)

    def __str__(self) -> str:
        bound = f"{self.bound:g}" if isinstance(self.bound, float) else self.bound
        return f"{self.column}{self.comparison}{bound}"


def parse_condition(text: str) -> Condition:
    """Parses a condition such as ``aesthetic>=5`` or ``pwatermark<0.5`` or ``license!=unknown``.

    Raises:
        UserError: it is not a condition, or it orders text.
    """
    found = CONDITION.fullmatch(text)
    if not found:
        raise UserError(f"{text!r} is not a condition on metadata: write one such as aesthetic>=5 or license!=unknown")
    column, comparison, bound = found.groups()
    try:
        return Condition(column, comparison, float(bound))
    except ValueError:
        if comparison not in ("==", "!="):
            raise UserError(f"{text!r} compares with a word: give a number, or use == or !=") from None
        return Condition(column, comparison, bound)


@dataclass(frozen=True)
class Filters:
    """Rules for images and captions; with the defaults, all images with a non-empty caption pass.

    Attributes:
        least_side: min pixels of the source image's shorter side.
        largest_aspect: max ratio of the longer to the shorter side, at least 1; None: no limit.
        fewest_words: min number of words of a caption, separated by white space.
        most_words: max number of words of a caption; None: no limit.
        conditions: conditions on the metadata; a record without the column is dropped.
    """

    least_side: int = 1
    largest_aspect: float | None = None
    fewest_words: int = 1
    most_words: int | None = None
    conditions: tuple[Condition, ...] = ()

    def __post_init__(self) -> None:
        """Checks the limits.

        Raises:
            UserError: no image or no caption could pass.
        """
        if self.largest_aspect is not None and self.largest_aspect < 1:
            raise UserError(f"--max_aspect={self.largest_aspect} is below 1: choose 1 or more")
        if self.most_words is not None and self.most_words < self.fewest_words:
            raise UserError(
                f"--min_words={self.fewest_words} exceeds --max_words={self.most_words}: change one of them"
            )

    def reason_to_drop(self, width: int, height: int, metadata: Mapping[str, Any]) -> str | None:
        """Returns the name of the first rule that an image fails; None if it passes all."""
        if min(width, height) < self.least_side:
            return f"shorter side under {self.least_side} px"
        if self.largest_aspect is not None and max(width, height) > self.largest_aspect * min(width, height):
            return f"longer side over {self.largest_aspect:g} times the shorter"
        for condition in self.conditions:
            if not condition.holds(metadata):
                return f"not {condition}"
        return None

    def good_captions(self, captions: Sequence[str]) -> list[str]:
        """Returns the captions whose number of words is within the limits."""
        max_words = float("inf") if self.most_words is None else self.most_words
        return [caption for caption in captions if self.fewest_words <= len(caption.split()) <= max_words]
