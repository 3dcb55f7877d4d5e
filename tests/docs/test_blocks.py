"""What the pages show runs as it stands: every block of bash and of Python, and the notebooks."""

import ast
import importlib
import json
from pathlib import Path

import nbformat
import pytest

from tests.docs.pages import CHECKOUT, NOTEBOOKS, OUTPUT, PAGES, name_of, read_blocks
from tests.docs.run_page import read_cells
from tests.docs.sandbox import copy_sandbox, write_sandbox
from tests.forked_programs import run_forked
from tests.tiers import thorough_except

RUN = ("bash", "python")
BLOCKS = {page: [block for block in read_blocks(page) if block.language in RUN] for page in PAGES}
WITH_BLOCKS = [page for page, blocks in BLOCKS.items() if not all(block.reason for block in blocks)]
COMPILING = {"classify", "clip", "deepfloyd_if", "evaluate", "gallery", "own_images", "python", "sample"}
"""Pages that take a while, which run with ``--thorough`` alone."""
QUICK = [page for page in WITH_BLOCKS if page.stem not in COMPILING]


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sandbox") / "inputs"
    folder.mkdir()
    write_sandbox(folder)
    return folder


def run_page(page: Path, sandbox: Path, folder: Path, *flags: str) -> str:
    """Runs a page in a copy of the sandbox; returns its mistakes, each with the place of the block."""
    copy = copy_sandbox(sandbox, folder / "sandbox")
    done = run_forked("tests.docs.run_page", str(page), str(copy), *flags)
    print(done.stdout)
    file = copy / "mistakes.json"
    if not file.exists():
        return f"{name_of(page)}: the process ended with status {done.returncode}\n{done.stderr[-3000:]}"
    mistakes = json.loads(file.read_text())
    return "\n\n".join(f"{name_of(page)}:{one['line']}\n    {one['run']}\n{one['said']}" for one in mistakes)


@pytest.mark.slow(seconds=50)
@pytest.mark.parametrize("page", thorough_except(QUICK, [*WITH_BLOCKS, *NOTEBOOKS]), ids=name_of)
def test_the_blocks_of_a_page_run(page, sandbox, tmp_path):
    mistakes = run_page(page, sandbox, tmp_path)
    assert not mistakes, f"\n{mistakes}"


@pytest.mark.parametrize("page", [*PAGES, *NOTEBOOKS], ids=name_of)
def test_what_the_python_of_a_page_imports_is_there(page):
    blocks = read_cells(page) if page.suffix == ".ipynb" else read_blocks(page)
    for block in blocks:
        for node in ast.walk(ast.parse(block.text)) if block.language == "python" else ():
            if isinstance(node, ast.ImportFrom) and node.module.partition(".")[0] == "imagen_jax":
                module = importlib.import_module(node.module)
                missing = [one.name for one in node.names if not hasattr(module, one.name)]
                assert not missing, f"{block.page}:{block.line}"


@pytest.mark.thorough
@pytest.mark.parametrize("page", WITH_BLOCKS, ids=name_of)
def test_every_command_of_a_page_runs_to_its_end(page, sandbox, tmp_path):
    mistakes = run_page(page, sandbox, tmp_path, "--whole")
    assert not mistakes, f"\n{mistakes}"


@pytest.mark.thorough
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=name_of)
def test_a_notebook_runs_at_its_full_size_in_a_kernel(notebook, monkeypatch):
    from nbclient import NotebookClient

    for name in ("JAX_DISABLE_MOST_OPTIMIZATIONS", "IMAGEN_JAX_AS_WRITTEN"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("PYTHONPATH", str(CHECKOUT))
    NotebookClient(nbformat.read(notebook, as_version=4), timeout=600, kernel_name="python3").execute()


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=name_of)
def test_a_notebook_is_committed_with_its_outputs(notebook):
    cells = [cell for cell in nbformat.read(notebook, as_version=4).cells if cell.cell_type == "code"]
    outputs = [output for cell in cells for output in cell.outputs]
    assert outputs and not [output for output in outputs if output.output_type == "error"]
    assert [cell.execution_count for cell in cells] == [*range(1, len(cells) + 1)]


def test_a_block_that_is_not_run_has_its_reason(capsys):
    reasons = [f"{one.page}:{one.line} {one.reason}" for blocks in BLOCKS.values() for one in blocks if one.reason]
    print("\n".join(["Not run:", *reasons]))
    for page in PAGES:
        marks = [
            line for line in page.read_text(encoding="utf-8").split("\n") if line.strip().startswith("<!-- not run")
        ]
        assert len(marks) == sum(bool(block.reason) for block in BLOCKS[page]), f"{name_of(page)}: {marks}"


def test_an_output_is_below_the_block_that_prints_it():
    for page in PAGES:
        blocks = list(read_blocks(page))
        for before, block in zip([None, *blocks], blocks, strict=False):
            if block.above == OUTPUT:
                assert block.language == "text" and before is not None and before.language in RUN, block
