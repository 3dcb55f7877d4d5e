"""Each row of the table of faults in CONTRIBUTING.md names a test that is there."""

import ast
import re
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]
TABLE = (CHECKOUT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("## Faults")[2]
ROWS = [line for line in TABLE.splitlines() if line.startswith("| ") and not line.startswith("| fault ")]


def test_the_table_has_rows():
    assert len(ROWS) >= 25


@pytest.mark.parametrize("row", ROWS, ids=[f"row_{number}" for number in range(1, len(ROWS) + 1)])
def test_its_test_is_there(row):
    fault, happens, shown = (cell.strip() for cell in row.strip("|").split(" | "))
    assert fault and happens
    (file, name) = re.fullmatch(r"`(tests/[\w/]+\.py)::(test_\w+)`", shown.strip(" |")).groups()
    functions = ast.walk(ast.parse((CHECKOUT / file).read_text(encoding="utf-8")))
    assert name in {node.name for node in functions if isinstance(node, ast.FunctionDef)}
