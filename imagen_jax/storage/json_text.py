"""A parser for untrusted JSON from files and browsers, with limits on size and nesting depth.

bytes -> check of the size -> parser -> check of the depth -> dicts, lists, text, numbers, true, false and null
"""

import json
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from imagen_jax.storage.paths import Path, size_of

MAX_BYTES = 2**30
"""Max bytes by default. The largest known file, COCO's captions, has a seventh of that."""

MAX_DEPTH = 100
"""Max depth of nested objects and lists. Python allows about 1,000 nested calls, and recursive readers need some."""


def parse_json(
    content: bytes | str,
    max_bytes: int = MAX_BYTES,
    parse_constant: Callable[[str], Any] | None = None,
    check_names: Callable[[Sequence[str]], None] | None = None,
) -> Any:
    """Parses JSON.

    Args:
        content: the JSON text.
        max_bytes: max length of ``content``, in bytes or characters.
        parse_constant: converts ``NaN``, ``Infinity`` and ``-Infinity``, which standard JSON lacks; by default to
            floats.
        check_names: called with the names of each object, in order; a dict would keep only the last of two equal ones.

    Raises:
        ValueError: the text is not valid JSON, too large or nested too deeply.
    """
    if len(content) > max_bytes:
        raise ValueError(f"it has {len(content)} bytes, more than {max_bytes}")
    # Without a hook, Python has one decoder for all calls.
    hook = None if check_names is None else partial(make_object, check_names)
    try:
        value = json.loads(content, parse_constant=parse_constant, object_pairs_hook=hook)
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


def make_object(check_names: Callable[[Sequence[str]], None], pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Makes an object of its names and values, after a check of all names."""
    check_names([name for name, _ in pairs])
    return dict(pairs)


def read_json(path: Path, max_bytes: int = MAX_BYTES) -> Any:
    """Reads a JSON file.

    Args:
        path: path of the file.
        max_bytes: max size of the file, in bytes.

    Raises:
        OSError: the file can't be read.
        ValueError: the file is not valid JSON, too large or nested too deeply.
    """
    # The check comes before the read, because a large file would fill the memory.
    if (size := size_of(path)) > max_bytes:
        raise ValueError(f"it has {size} bytes, more than {max_bytes}")
    return parse_json(path.read_bytes(), max_bytes)
