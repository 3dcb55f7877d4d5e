"""The fields of a record as sources write them: captions and metadata out of text and JSON that nobody checked."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from imagen_jax.data.sources.records import Damage
from imagen_jax.storage.json_text import parse_json

LINE_END = re.compile(r"\r\n|\n|\r")


def decode_text(content: bytes) -> str:
    """The text that bytes hold, without a byte order mark; what is not UTF-8 is kept as lone surrogates.

    With its byte order mark it may be UTF-16, as Windows' editors save it.
    """
    if content.startswith((b"\xff\xfe", b"\xfe\xff")) and not len(content) % 2:
        return content.decode("utf-16", "surrogatepass")
    return content.decode("utf-8-sig", "surrogateescape")


def split_lines(text: str) -> list[str]:
    """The lines of a text, one at least, as editors show them: parted by a line feed, a carriage return, or both.

    ``str.splitlines`` also ends a line at a vertical tab, a form feed, U+0085 and U+2028, which captions hold.
    """
    return LINE_END.split(text)


def is_utf8(text: str) -> bool:
    """Whether a text can be written as UTF-8, so whether it has no lone surrogates."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def printable(name: str) -> str:
    """A name as UTF-8 can hold it; the bytes that are none are written out, so that other names stay other names."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def parse_json_object(text: str) -> dict[str, Any]:
    """What a JSON object holds; numbers that JSON does not know, such as NaN, are None.

    Raises:
        ValueError: it is no JSON, or no object.
    """
    value = parse_json(text, parse_constant=lambda name: None)
    if not isinstance(value, dict):
        raise ValueError("it is no object")
    return value


def scalars_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of some values that are text, a number, true, false or nothing, as JSON can hold them."""
    return {
        printable(name): _as_json(value)
        for name, value in values.items()
        if value is None or isinstance(value, str | int | float)
    }


def captions_or_damage(key: str, fields: Sequence[Any]) -> tuple[str, ...] | Damage:
    """The captions of a record, or why it has none.

    Args:
        key: of the record.
        fields: each a text, a list of texts, or None where there is none. Empty ones are left out where another is not
            empty.
    """
    texts = [text for field in fields for text in (field if isinstance(field, list) else [field]) if text is not None]
    if not texts:
        return Damage(key, "no caption")
    if not all(isinstance(text, str) for text in texts):
        return Damage(key, "no caption", "what should be the caption is no text")
    if not all(is_utf8(text) for text in texts):
        return Damage(key, "caption is not UTF-8")
    captions = tuple(text.strip() for text in texts if text.strip())
    return captions or Damage(key, "caption is empty")


def _as_json(value: Any) -> Any:
    if isinstance(value, str):
        return printable(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value
