"""A few of the command lines of ``command_lines.py``, the same ones each time; none is run beyond where it loads."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.thorough

CHECKOUT = Path(__file__).parents[2]
LINES = 60


def test_what_comes_of_a_command_line_is_a_result_or_a_sentence_before_anything_is_loaded():
    """In a process of its own, for commands define flags of the same names."""
    given = [f"--count={LINES}", "--seed=1", "--run_share=0", "--show"]
    command = [sys.executable, "-m", "tests.torture.command_lines", *given]
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT)}
    done = subprocess.run(command, cwd=CHECKOUT, env=environment, capture_output=True, text=True, check=False)
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert len(lines) == LINES, done.stderr
    findings = [line for line in lines if line["kind"] not in ("result", "loading", "sentence")]
    assert findings == [] and done.returncode == 0
    assert {"loading", "sentence"} <= {line["kind"] for line in lines}, "the sample has both"
