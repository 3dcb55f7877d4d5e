"""Prompts that each test one difficult skill, as in DrawBench, and a set of our own.

    prompts.csv, or our own set -> DrawBenchPrompt(category, prompt) of each -> images -> side_by_side

DrawBench (Saharia et al. 2022, section 3 and appendix C) is a table of 200 prompts with the columns ``Prompts`` and
``Category``. It is not included, but ``read_drawbench`` reads it. Our set has 198 prompts of our own, 18 in each
category. The categories have DrawBench's names, so that tables are comparable:

    Colors              does each object have the specified colour, even an unusual one, and are none exchanged?
    Conflicting         do objects interact in ways that never happen?
    Counting            is the number of objects right, from one to ten?
    DALL-E              are shape, material, clothing and point of view combined in new ways?
    Descriptions        is an object shown that is described at length but not named, or a scene of many parts?
    Gary Marcus et al.  do word order, negation, possession and common sense change the image?
    Misspellings        are misspelt words understood?
    Positional          is one object on, under, left of, right of, before or between others?
    Rare Words          are words understood that hardly any caption contains?
    Reddit              are jokes shown, in which an age, a style and a subject don't belong together?
    Text                are the quoted letters written, and all of them?
"""

import csv
import importlib.resources
import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from imagen_jax.data.sources.table_rows import ROW_READERS
from imagen_jax.errors import UserError, lookup
from imagen_jax.storage.paths import Path, to_path, write_whole
from imagen_jax.storage.refusals import raise_if_denied

PACKAGE = "imagen_jax.evaluation.reports"
OWN_PROMPTS = "drawbench_prompts.csv"

COLUMNS = {"prompts": "prompt", "prompt": "prompt", "category": "category", "categories": "category"}
"""Maps names of columns, in lower case, to their contents."""


class DrawBenchPrompt(NamedTuple):
    """A prompt and its category.

    Attributes:
        category: the tested skill, such as "Counting".
        prompt: the text.
        times: the number of times that the file contains it.
    """

    category: str
    prompt: str
    times: int = 1


def read_drawbench(path: Path) -> list[DrawBenchPrompt]:
    """Reads a table of prompts with their categories.

    Args:
        path: a CSV in DrawBench's format, or a ``.tsv``, ``.jsonl`` or ``.parquet`` file. The columns can be in any
            order, with names in any case, and there may be others. Empty rows are ignored.

    Returns:
        Each prompt once, in the order of first occurrence, with the category of that occurrence.

    Raises:
        UserError: the file can't be read, a column is missing, a row can't be read or is incomplete, or there are no
            prompts.
    """
    read_rows = lookup(ROW_READERS, path.suffix.lower(), "kind of table")
    found: dict[str, DrawBenchPrompt] = {}
    try:
        for row in read_rows(path, None, ()):
            if row.problem:
                raise UserError(f"{row.name} of {path} can't be read ({row.problem}: {row.detail}): fix the row")
            category, prompt = cells_of(row.values, path, row.name)
            if not category and not prompt:
                continue
            if not category or not prompt:
                raise UserError(f"{row.name} of {path} has no {'prompt' if category else 'category'}: write one there")
            before = found.get(prompt, DrawBenchPrompt(category, prompt, 0))
            found[prompt] = before._replace(times=before.times + 1)
    except OSError as error:
        raise_if_denied(error, path)
        raise UserError(
            f"the prompts in {path} can't be read ({error.strerror or error}): name a CSV of Prompts and Category"
        ) from error
    if not found:
        raise UserError(f"{path} contains no prompt: write a line Prompts,Category and a prompt in each line below it")
    return list(found.values())


def cells_of(values: Mapping[str, Any], path: Path, row: str) -> tuple[str, str]:
    """Returns the category and the prompt of a row, without surrounding white space.

    Raises:
        UserError: a column is missing or duplicated, or its text is not UTF-8.
    """
    cells: dict[str, str] = {}
    for name, value in values.items():
        what = COLUMNS.get(name.strip().lower())
        if what is None:
            continue
        if what in cells:
            raise UserError(f"{path} has two columns that may be the {what}: rename one of {', '.join(values)}")
        cells[what] = str(value if value is not None else "").strip()
        if any("\ud800" <= character <= "\udfff" for character in cells[what]):
            raise UserError(f"{row} of {path} is not UTF-8: save the table as UTF-8")
    for what, column in (("prompt", "Prompts"), ("category", "Category")):
        if what not in cells:
            raise UserError(f"{path} has no column {column}, only {', '.join(values) or 'nothing'}: rename one")
    return cells["category"], cells["prompt"]


def own_prompts() -> list[DrawBenchPrompt]:
    """Returns our own set: 18 prompts in each of DrawBench's 11 categories."""
    with importlib.resources.as_file(importlib.resources.files(PACKAGE) / OWN_PROMPTS) as file:
        return read_drawbench(to_path(file))


def write_prompts(path: Path, prompts: Sequence[DrawBenchPrompt]) -> None:
    """Writes prompts as a CSV with DrawBench's columns, each once.

    Raises:
        UserError: the file can't be written.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["Prompts", "Category"])
    writer.writerows([prompt.prompt, prompt.category] for prompt in prompts)
    try:
        write_whole(path, text.getvalue().encode())
    except OSError as error:
        raise UserError(
            f"{path} can't be written ({error.strerror or error}): make room or choose another folder"
        ) from error
