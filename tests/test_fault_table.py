"""Each row of the table of faults in docs/failures.md links to a test that is there."""

import ast
import re
from functools import cache
from pathlib import Path

CHECKOUT = Path(__file__).parents[1]
TABLE = (CHECKOUT / "docs" / "failures.md").read_text(encoding="utf-8").partition("## All faults")[2]
ROWS = [line for line in TABLE.splitlines() if line.startswith("| ") and not line.startswith("| fault ")]


def test_the_table_has_rows():
    assert len(ROWS) >= 90


@cache
def functions_of(file: str) -> set[str]:
    """Names of the functions in a file; none where there is no such file."""
    path = CHECKOUT / file
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if path.exists() else ()
    return {node.name for node in nodes if isinstance(node, ast.FunctionDef)}


def is_shown(row: str) -> bool:
    """Whether a row has a fault, what happens, and a test that is there."""
    cells = [cell.strip() for cell in row.strip("|").split(" | ")]
    link = re.fullmatch(r'\[test\]\(\.\./(tests/[\w/]+\.py) "(test_\w+)"\)', cells[-1].strip(" |"))
    return len(cells) == 3 and all(cells) and link is not None and link[2] in functions_of(link[1])


def test_each_rows_test_is_there():
    assert [row for row in ROWS if not is_shown(row)] == []
    assert not is_shown('| a fault | an end | [test](../tests/test_errors.py "test_that_is_not_there") |')
