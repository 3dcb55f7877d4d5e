"""The table of the reports on file, and a line of a report."""

import importlib.util
from pathlib import Path

import pytest

from imagen_jax.forecast.report import format_memory

FOLDER = Path(__file__).parents[2] / "launch" / "reports" / "pods"


def load_script():
    spec = importlib.util.spec_from_file_location("make_table", FOLDER / "make_table.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


def test_the_table_has_a_row_for_each_report_with_its_numbers():
    readme = (FOLDER / "README.md").read_text()
    assert load_script().put_table(readme) == readme
    assert all(f"| `{report.stem}` |" in readme for report in FOLDER.glob("*.json"))


@pytest.mark.parametrize(("temporaries", "is_known"), [(2**30, True), (0, False)])
def test_a_report_without_temporaries_does_not_say_that_the_program_fits(temporaries, is_known):
    memory = {"arguments": 2**30, "results": 0, "temporaries": temporaries, "program": 2**20}
    memory |= {"total": 2**31, "available": 2**35, "free_share": 0.9}
    (line,) = format_memory(memory, True)
    assert (": fits, " in line) == is_known
