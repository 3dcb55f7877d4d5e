"""Reads the fields of a record: captions and metadata from unchecked text and JSON."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from imagen_jax.data.sources.records import Damage
from imagen_jax.storage.json_text import parse_json

LINE_END = re.compile(r"\r\n|\n|\r")


def decode_text(content: bytes) -> str:
    """Decodes bytes to text without a byte order mark; bytes that are not UTF-8 become lone surrogates.

    Text with a UTF-16 byte order mark is decoded as UTF-16, which Windows editors save.
    """
    if content.startswith((b"\xff\xfe", b"\xfe\xff")) and not len(content) % 2:
        return content.decode("utf-16", "surrogatepass")
    return content.decode("utf-8-sig", "surrogateescape")


def split_lines(text: str) -> list[str]:
    """Splits a text into lines, at least one, at line feeds, carriage returns, or both together, as editors do.

    ``str.splitlines`` also splits at a vertical tab, a form feed, U+0085 and U+2028, which occur in captions.
    """
    return LINE_END.split(text)


def is_utf8(text: str) -> bool:
    """Returns whether a text can be encoded as UTF-8, so contains no lone surrogates."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def printable(name: str) -> str:
    """Escapes lone surrogates, so that a name can be encoded as UTF-8 and different names stay different."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def parse_json_object(text: str) -> dict[str, Any]:
    """Parses a JSON object; constants that JSON does not define, such as NaN, become None.

    Raises:
        ValueError: it is not JSON, or not an object.
    """
    value = parse_json(text, parse_constant=lambda name: None)
    if not isinstance(value, dict):
        raise ValueError("it is not an object")
    return value


def scalars_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the values that are text, a number, a boolean or None, JSON-serialisable."""
    return {
        printable(name): _as_json(value)
        for name, value in values.items()
        if value is None or isinstance(value, str | int | float)
    }


def captions_or_damage(key: str, fields: Sequence[Any]) -> tuple[str, ...] | Damage:
    """Returns the captions of a record, or why it has none.

    Args:
        key: key of the record.
        fields: texts, lists of texts, or None for missing captions. Empty texts are dropped if another text is not
            empty.
    """
    texts = [text for field in fields for text in (field if isinstance(field, list) else [field]) if text is not None]
    if not texts:
        return Damage(key, "no caption")
    if not all(isinstance(text, str) for text in texts):
        return Damage(key, "no caption", "the caption is not text")
    if not all(is_utf8(text) for text in texts):
        return Damage(key, "caption is not UTF-8")
    captions = tuple(text.strip() for text in texts if text.strip())
    return captions or Damage(key, "caption is empty")


def _as_json(value: Any) -> Any:
    if isinstance(value, str):
        return printable(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value
