"""Reads prompts from files, and checks them before any model is loaded."""

from collections.abc import Mapping, Sequence
from typing import Any

from imagen_jax.data.sources.record_fields import split_lines
from imagen_jax.data.sources.rows import RowReader
from imagen_jax.data.sources.table_rows import ROW_READERS
from imagen_jax.errors import UserError
from imagen_jax.storage.json_text import parse_json, read_json
from imagen_jax.storage.paths import Path, size_of
from imagen_jax.storage.refusals import raise_if_denied

MAX_FILE_BYTES = 2**28
MAX_PROMPT_LENGTH = 20_000
"""Max number of characters of a prompt."""

COLUMNS = ("prompt", "prompts", "caption", "text")
"""Names of a table's prompt column, in order of preference and matched case-insensitively.

DrawBench has ``Prompts``.
"""

NAMES = f"{', '.join(COLUMNS[:-1])} or {COLUMNS[-1]}"
FORMS = '["a cat", "a dog"] or [{"prompt": "a cat"}]'
NOT_LINES = (".htm", ".html", ".json5", ".rtf", ".toml", ".xml", ".yaml", ".yml")
"""Suffixes of text files whose lines are not prompts."""


def read_prompts(path: Path) -> list[str]:
    """Reads the prompts of a file: its lines, or a table's column ``prompt``, ``prompts``, ``caption`` or ``text``.

    Args:
        path: file of prompts. JSON lines (``.jsonl``, ``.ndjson``), ``.csv``, ``.tsv`` and ``.parquet`` are tables. A
            ``.json`` file contains a list of strings, a list of objects with such a column, an object with such a list
            under such a name, or JSON lines. Any other file is text with one prompt per line; empty lines are skipped.

    Raises:
        UserError: the file does not exist, is not UTF-8, contains no prompt, has a row without a prompt, or has another
            format.
    """
    suffix = path.suffix.lower()
    try:
        if suffix == ".json":
            prompts = read_json_prompts(path)
        elif suffix in ROW_READERS:
            prompts = read_table(path, ROW_READERS[suffix])
        else:
            prompts = read_lines(path)
    except OSError as error:
        raise_if_denied(error, path)
        raise UserError(
            f"the prompts in {path} can't be read ({error.strerror or error}): name a file of text, JSON or CSV"
        ) from error
    if not prompts:
        raise UserError(f"{path} has no prompt: write one per line")
    check_readable(prompts)
    return prompts


def read_lines(path: Path) -> list[str]:
    """Returns the non-empty lines of a text file.

    Raises:
        UserError: the file is not UTF-8, is too large, contains JSON, or has a suffix of ``NOT_LINES``.
    """
    if path.suffix.lower() in NOT_LINES:
        raise UserError(f"prompts are not read from {path.suffix.lower()} files: write {path.stem}.txt, one per line")
    if (size := size_of(path)) > MAX_FILE_BYTES:
        raise UserError(f"{path} has {size} bytes, more than {MAX_FILE_BYTES}: give a shorter file")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text ({error}): save it as UTF-8") from error
    lines = [line.strip() for line in split_lines(text) if line.strip()]
    if contains_json(text, lines):
        raise UserError(f"{path} contains JSON: rename it to {path.stem}.json")
    return lines


def contains_json(text: str, lines: Sequence[str]) -> bool:
    """Returns whether a text is a JSON list or object as a whole, or each of its lines is a JSON object."""
    if not text.lstrip().startswith(("[", "{")):
        return False
    try:
        parse_json(text)
        return True
    except ValueError:
        pass
    try:
        return all(isinstance(parse_json(line), dict) for line in lines)
    except ValueError:
        return False


def read_json_prompts(path: Path) -> list[str]:
    """Returns the prompts of a JSON file.

    Raises:
        UserError: it is not JSON, contains no list of prompts, or has an item without a prompt.
    """
    try:
        document = read_json(path, MAX_FILE_BYTES)
    except ValueError as error:
        with path.open("rb") as file:
            first = file.readline(MAX_PROMPT_LENGTH).strip()
        if first.startswith(b"{") and first.endswith(b"}"):
            return read_table(path, ROW_READERS[".jsonl"])
        raise UserError(f"{path} is not JSON ({error}): write a list, such as {FORMS}") from error
    if isinstance(document, dict):
        values = {name.strip().lower(): value for name, value in document.items()}
        document = next((values[name] for name in COLUMNS if name in values), None)
        document = [document] if isinstance(document, str) else document
    if not isinstance(document, list):
        raise UserError(f"{path} has no list of prompts: write one, such as {FORMS}")
    prompts = []
    for number, item in enumerate(document, start=1):
        prompt = item if isinstance(item, str) else prompt_of(item) if isinstance(item, dict) else None
        if prompt is None or not prompt.strip():
            what = "it is empty" if prompt is not None else f"it is neither text nor an object with {NAMES}"
            raise UserError(f"item {number} of {path} has no prompt: {what}")
        prompts.append(prompt.strip())
    return prompts


def read_table(path: Path, read_rows: RowReader) -> list[str]:
    """Returns the prompts of a table.

    Raises:
        UserError: the table can't be read, or a row has no prompt.
    """
    prompts = []
    for row in read_rows(path, None, ()):
        prompt = prompt_of(row.values)
        if row.problem or prompt is None or not prompt.strip():
            raise UserError(f"{row.name} of {path} has no prompt: {row.problem or f'it has no {NAMES}'}")
        prompts.append(prompt.strip())
    return prompts


def prompt_of(values: Mapping[str, Any]) -> str | None:
    """Returns a row's text in the first of ``COLUMNS`` that it has, matched case-insensitively; None if it has none."""
    named = {name.strip().lower(): value for name, value in values.items()}
    return next((named[name] for name in COLUMNS if isinstance(named.get(name), str)), None)


def check_readable(prompts: Sequence[str]) -> None:
    """Checks that each prompt is valid Unicode text, and not too long.

    Raises:
        UserError: a prompt contains bytes that are not UTF-8, or exceeds ``MAX_PROMPT_LENGTH``.
    """
    for prompt in prompts:
        if len(prompt) > MAX_PROMPT_LENGTH:
            raise UserError(
                f"the prompt {prompt[:40]!a}… has {len(prompt)} characters, more than {MAX_PROMPT_LENGTH}: shorten it"
            )
        if any("\ud800" <= character <= "\udfff" for character in prompt):
            raise UserError(f"the prompt {prompt!a} is not UTF-8 text: give it in a terminal with a UTF-8 locale")
