"""The table of the reports on file."""

import importlib.util
from pathlib import Path

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
