"""Standard streams that are closed, full or not read: the work is done, or the status of its error is the same."""

import os
import subprocess
import sys

import pytest

from tests.tiers import named_cases, thorough_except

PROGRAM = """
import os, sys
from pathlib import Path
from imagen_jax.runtime.main import run_main
from imagen_jax.errors import UserError
from tqdm import tqdm

def main():
    with open("file", "w") as file:
        for number in tqdm(range(3000)):
            print("line", number, "\\u00fc")
            print("line", number, file=sys.stderr)
        # As a library does that does not use Python's streams.
        os.write(2, b"from a library")
        os.write(1, b"from a library")
        file.write("content")
    if fails:
        raise UserError("the sky is green: look again")
    Path("done").touch()

if __name__ == "__main__":
    fails = sys.argv[1:] and sys.argv.pop() == "fail"
    run_main(main)
"""

CLOSED = {
    "output closed": ">&-",
    "error closed": "2>&-",
    "input closed": "<&-",
    "all closed": "<&- >&- 2>&-",
    "output read to its first line": "| head -n 1",
    "error read to its first line": "2>&1 >/dev/null | head -n 1",
    "both read to the first line": "2>&1 | head -n 1",
    "no room for errors": "2>/dev/full",
    "ASCII": "| PYTHONIOENCODING=ascii cat",
}


def run(folder, redirected, *arguments):
    """The finished process, with the standard error that was not redirected."""
    (folder / "program.py").write_text(PROGRAM)
    environment = {**os.environ, "PYTHONPATH": os.getcwd(), "IMAGEN_JAX_NO_CACHE": "1", "PYTHONIOENCODING": "ascii"}
    line = f'"$@" {redirected}; exit "${{PIPESTATUS[0]}}"'
    done = subprocess.run(
        ["bash", "-c", line, "bash", sys.executable, "program.py", *arguments],
        cwd=folder, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done


@pytest.mark.parametrize("redirected", named_cases(CLOSED, kept=2))
def test_the_work_is_done_and_no_file_takes_what_is_printed(tmp_path, redirected):
    done = run(tmp_path, redirected)
    assert done.returncode == 0 and (tmp_path / "done").exists(), done.stderr
    assert (tmp_path / "file").read_text() == "content"
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr


STREAMS = ["<&- >&- 2>&-", "2>/dev/full", "2>&1 | head -n 1"]


@pytest.mark.parametrize("redirected", thorough_except(STREAMS[:1], STREAMS))
def test_a_mistake_keeps_its_status(tmp_path, redirected):
    assert run(tmp_path, redirected, "fail").returncode == 2


def test_output_that_there_is_no_room_for_is_an_error(tmp_path):
    done = run(tmp_path, ">/dev/full")
    assert done.returncode == 2 and done.stderr.splitlines()[-1].startswith("error: ")
    assert "standard output" in done.stderr and "Traceback" not in done.stderr
