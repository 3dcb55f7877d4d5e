"""JSON from files and browsers that nobody checked: parsed within limits, and never anything but data.

bytes -> not too many, not nested too deeply -> dicts, lists, text, numbers, true, false and null
"""

import json
from collections.abc import Callable
from typing import Any

from imagen_jax.storage.paths import Path, size_of

MAX_BYTES = 2**30
"""Bytes; the largest that we know, captions of COCO, are a seventh of it."""

MAX_DEPTH = 100
"""Objects and lists within each other. Python ends at about 1,000 calls, and what walks through a value needs some."""


def parse_json(content: bytes | str, most: int = MAX_BYTES, parse_constant: Callable[[str], Any] | None = None) -> Any:
    """What JSON holds.

    Args:
        content: the text.
        most: bytes or characters that it may have.
        parse_constant: what stands for ``NaN``, ``Infinity`` and ``-Infinity``, which JSON does not know; by default
            those numbers.

    Raises:
        ValueError: it is no JSON, too large or nested too deeply.
    """
    if len(content) > most:
        raise ValueError(f"it has {len(content)} bytes, more than {most}")
    try:
        value = json.loads(content, parse_constant=parse_constant)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer if isinstance(outer, list) else ())
            if isinstance(inner, dict | list)
        ]
        if not level:
            return value
    raise ValueError("it is nested too deeply")


def read_json(path: Path, most: int = MAX_BYTES) -> Any:
    """What a file of JSON holds.

    Args:
        path: of the file.
        most: bytes that it may have.

    Raises:
        OSError: it can't be read.
        ValueError: see ``parse_json``.
    """
    # Asked before it is read, for what is read fills memory.
    if (size := size_of(path)) > most:
        raise ValueError(f"it has {size} bytes, more than {most}")
    return parse_json(path.read_bytes(), most)
