"""Reads files of classes for zero-shot classification.

    cat                          one class a line; its name is its only word
    Food & Drink: food, drink    a name, and words for its prompts

A ``.json`` file has an object: ``{"cat": [], "Food & Drink": ["food", "drink"]}``, or a list of names.
"""

from collections.abc import Iterator
from typing import Any

from imagen_jax.data.sources.record_fields import split_lines
from imagen_jax.errors import UserError
from imagen_jax.storage.json_text import read_json
from imagen_jax.storage.paths import Path, size_of
from imagen_jax.storage.refusals import raise_if_denied

MAX_BYTES = 2**24
FORM = '{"cat": ["cat", "kitten"]}'


def read_class_file(path: Path) -> dict[str, tuple[str, ...]]:
    """Reads the words of each class, in the order of the file. A class without words has its name as its only word.

    Raises:
        UserError: the file can't be read, is not UTF-8 or JSON, has no class, or has a class twice.
    """
    try:
        if size_of(path) > MAX_BYTES:
            raise UserError(f"{path} has more than {MAX_BYTES} bytes: give a file with one class per line")
        rows = list(read_json_rows(path) if path.suffix.lower() == ".json" else read_rows(path))
    except OSError as error:
        raise_if_denied(error, path)
        raise UserError(
            f"the classes in {path} can't be read ({error.strerror or error}): name another file"
        ) from error
    words: dict[str, tuple[str, ...]] = {}
    for name, own in rows:
        if name in words:
            raise UserError(f"{path} has the class {name!r} twice: leave one out")
        words[name] = own or (name,)
    if not words:
        raise UserError(f"{path} has no class: write one per line")
    return words


def read_rows(path: Path) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yields the name and the words of each line; empty lines are skipped.

    Raises:
        UserError: the file is not UTF-8, or a line has no name.
    """
    try:
        lines = split_lines(path.read_bytes().decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text ({error}): save it as UTF-8") from error
    for number, line in enumerate(lines, start=1):
        name, _, words = line.partition(":")
        if line.strip() and not name.strip():
            raise UserError(f"line {number} of {path} has words but no name: write it as NAME: WORD, WORD")
        if line.strip():
            yield name.strip(), tuple(word.strip() for word in words.split(",") if word.strip())


def read_json_rows(path: Path) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yields the name and the words of each class of a JSON object, or each name of a JSON list.

    Raises:
        UserError: the file is not JSON, or has another form.
    """
    try:
        document: Any = read_json(path, MAX_BYTES)
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}): write an object, such as {FORM}") from error
    if isinstance(document, list):
        rows: list[tuple[Any, Any]] = [(name, []) for name in document]
    elif isinstance(document, dict):
        rows = list(document.items())
    else:
        raise UserError(f"{path} has no object of names and words: write one, such as {FORM}")
    for name, words in rows:
        words = [words] if isinstance(words, str) else words
        is_text = isinstance(words, list) and all(isinstance(word, str) for word in words)
        if not (isinstance(name, str) and name.strip() and is_text):
            raise UserError(f"{path} has a class without a name, or words that are not text: write {FORM}")
        yield name.strip(), tuple(word.strip() for word in words if word.strip())
