"""Each row of the table of faults in CONTRIBUTING.md names a test that is there."""

import ast
import re
from functools import cache
from pathlib import Path

CHECKOUT = Path(__file__).parents[1]
TABLE = (CHECKOUT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("## Faults")[2]
ROWS = [line for line in TABLE.splitlines() if line.startswith("| ") and not line.startswith("| fault ")]


def test_the_table_has_rows():
    assert len(ROWS) >= 25


@cache
def functions_of(file: str) -> set[str]:
    """Names of the functions in a file; none where there is no such file."""
    path = CHECKOUT / file
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if path.exists() else ()
    return {node.name for node in nodes if isinstance(node, ast.FunctionDef)}


def is_shown(row: str) -> bool:
    """Whether a row has a fault, what happens, and a test that is there."""
    cells = [cell.strip() for cell in row.strip("|").split(" | ")]
    named = re.fullmatch(r"`(tests/[\w/]+\.py)::(test_\w+)`", cells[-1].strip(" |"))
    return len(cells) == 3 and all(cells) and named is not None and named[2] in functions_of(named[1])


def test_each_rows_test_is_there():
    assert [row for row in ROWS if not is_shown(row)] == []
    assert not is_shown("| a fault | an end | `tests/test_errors.py::test_that_is_not_there` |")
