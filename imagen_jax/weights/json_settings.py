"""Reads the JSON file beside weights, and checks the type of each value."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from imagen_jax.errors import UserError
from imagen_jax.storage.json_text import read_json
from imagen_jax.storage.paths import Path
from imagen_jax.storage.refusals import raise_if_denied


class Kind(NamedTuple):
    """A kind of value.

    Attributes:
        words: its name in error messages.
        holds: returns whether a value is of this kind.
    """

    words: str
    holds: Callable[[Any], bool]


def is_count(value: Any) -> bool:
    """Returns whether a value is a positive whole number."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def is_positive(value: Any) -> bool:
    """Returns whether a value is a positive number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


def list_of(holds: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """Returns a predicate for non-empty lists of which each item satisfies ``holds``."""
    return lambda value: isinstance(value, list | tuple) and len(value) > 0 and all(map(holds, value))


def is_flag(value: Any) -> bool:
    """Returns whether a value is true or false."""
    return isinstance(value, bool)


def is_text(value: Any) -> bool:
    """Returns whether a value is text."""
    return isinstance(value, str)


COUNT = Kind("a positive whole number", is_count)
COUNTS = Kind("a list of positive whole numbers", list_of(is_count))
COUNT_OR_COUNTS = Kind(
    "a positive whole number or a list of them", lambda value: COUNTS.holds(value) or is_count(value)
)
POSITIVE = Kind("a positive number", is_positive)
SHARE = Kind("a number above 0 and up to 1", lambda value: is_positive(value) and value <= 1)
FLAG = Kind("true or false", is_flag)
FLAG_OR_FLAGS = Kind("true, false or a list of them", lambda value: is_flag(value) or list_of(is_flag)(value))
TEXT = Kind("text", is_text)
TEXTS = Kind("a list of texts", list_of(is_text))


def or_null(kind: Kind) -> Kind:
    """Returns a kind that also allows null."""
    return Kind(f"{kind.words} or null", lambda value: value is None or kind.holds(value))


def read_settings(path: Path) -> dict[str, Any]:
    """Returns the object in a JSON file.

    Raises:
        UserError: the file is missing, can't be read, or contains no object.
    """
    try:
        settings = read_json(path)
    except FileNotFoundError:
        raise UserError(f"{path} is missing: give a folder with all the files that the weights came with") from None
    except (OSError, ValueError) as error:
        raise_if_denied(error, path)
        raise UserError(f"{path} can't be read ({error}): download it again") from None
    if not isinstance(settings, dict):
        raise UserError(f"{path} contains no JSON object: download it again")
    return settings


def check_kinds(where: Path | str, settings: Mapping[str, Any], kinds: Mapping[str, Kind]) -> None:
    """Checks the types of the values of present keys.

    Args:
        where: the file, for error messages.
        settings: the contents of the file.
        kinds: the type that each key requires. Other keys are not checked.

    Raises:
        UserError: a value has the wrong type. The message names file, key and value.
    """
    for key in kinds.keys() & settings.keys():
        if not kinds[key].holds(settings[key]):
            raise UserError(f"{where} has {key}={settings[key]!r}, which is not {kinds[key].words}: fix the file")
