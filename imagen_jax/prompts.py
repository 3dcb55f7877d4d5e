"""Prompts from files and from command lines, checked before anything is loaded."""

from collections.abc import Sequence

from imagen_jax.data.table_rows import ROW_READERS, RowReader
from imagen_jax.errors import UserError
from imagen_jax.storage.paths import Path, size_of

LARGEST_FILE = 2**28
LONGEST_PROMPT = 20_000
"""Characters."""

COLUMNS = ("prompt", "prompts", "caption", "text")
"""Of a table, in the order in which they are looked for, however they are capitalised; DrawBench has ``Prompts``."""


def read_prompts(path: Path) -> list[str]:
    """Reads a file of prompts: a line each, or a table's column ``prompt``, ``prompts``, ``caption`` or ``text``.

    Args:
        path: JSON lines (``.jsonl``), ``.csv``, ``.tsv`` and ``.parquet`` are tables, all else is text. Empty lines of
            a text are left out.

    Raises:
        UserError: there is no such file, it is not UTF-8, a row has no prompt, or there is none at all.
    """
    try:
        read_rows = ROW_READERS.get(path.suffix.lower())
        prompts = read_table(path, read_rows) if read_rows else read_lines(path)
    except OSError as error:
        raise UserError(
            f"the prompts in {path} can't be read ({error.strerror or error}): name a file of text, JSON lines or CSV"
        ) from error
    if not prompts:
        raise UserError(f"{path} holds no prompt: write one a line")
    return prompts


def read_lines(path: Path) -> list[str]:
    """The lines of a text that are not empty."""
    if (size := size_of(path)) > LARGEST_FILE:
        raise UserError(f"{path} has {size} bytes, and {LARGEST_FILE} are the most: give a shorter file")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text ({error}): save it so") from error
    # Not splitlines: a prompt may hold a character that it takes for the end of a line.
    prompts = [line.strip() for line in text.replace("\r\n", "\n").split("\n") if line.strip()]
    check_readable(prompts)
    return prompts


def read_table(path: Path, read_rows: RowReader) -> list[str]:
    """The prompts of a table."""
    prompts = []
    for row in read_rows(path, None, ()):
        values = {name.strip().lower(): value for name, value in row.values.items()}
        found = [values[name] for name in COLUMNS if isinstance(values.get(name), str)]
        if row.problem or not found or not found[0].strip():
            what = row.problem or f"it has no {', '.join(COLUMNS[:-1])} or {COLUMNS[-1]}"
            raise UserError(f"{row.name} of {path} holds no prompt: {what}")
        prompts.append(found[0].strip())
    check_readable(prompts)
    return prompts


def check_readable(prompts: Sequence[str]) -> None:
    """Checks that every prompt is text, and not endless.

    Raises:
        UserError: one holds bytes that are no UTF-8, or is too long.
    """
    for prompt in prompts:
        if len(prompt) > LONGEST_PROMPT:
            raise UserError(f"the prompt {prompt[:40]!a}… has {len(prompt)} characters: {LONGEST_PROMPT} are the most")
        if any("\ud800" <= character <= "\udfff" for character in prompt):
            raise UserError(f"the prompt {prompt!a} is not UTF-8 text: give it in a terminal that speaks UTF-8")
