"""Runs the blocks of one page in one process, in a copy of the sandbox: ``python -m tests.docs.run_page PAGE SANDBOX``.

Commands of imagen-jax run in this process, one after the other, as do blocks of Python, which share their names. The
mistakes are written to ``mistakes.json`` in the sandbox: for each the line of the block, the command, and the message.

A command is run to its end if no page before this one has one of its kind, or if the page names again what it writes.
Training and evaluation have pages of their own for that.
The others stop where they would load weights, encode captions, build a data set or compile a program: by then all
flags, settings and inputs have been checked. With ``--whole`` all are run to their end.
"""

import contextlib
import gc
import io
import json
import os
import re
import shlex
import subprocess
import sys
import time
import traceback
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import jax
import matplotlib
import nbformat

from imagen_jax import pretrained
from imagen_jax.__main__ import COMMANDS
from imagen_jax.errors import UserError
from imagen_jax.runtime.main import parse_flags
from tests.docs.pages import CHECKOUT, PAGES, Block, name_of, read_blocks
from tests.docs.sandbox import bundled_cascades, shrink
from tests.small_networks import ONE_LEVEL
from tests.torture.command_lines import Loaders, StoppedError, load_fresh

IGNORED = (["source", ".venv/bin/activate"],)
"""Lines that change nothing here."""

SLOW = ("--stages=runs/if_base", "--stages=emoji_unclip")
"""What is in commands that run to their end with ``--whole`` alone: even a small DeepFloyd IF compiles for a minute."""

PAGE_OF = {"train": "docs/own_images.md", "evaluate": "docs/evaluate.md"}
"""The page on which the first command of a kind runs to its end, where that is not the first page that has one."""

SMOKE_CELLS = {
    "BATCH, STEPS, CHUNK = 512, 4000, 250": "BATCH, STEPS, CHUNK = 64, 4, 2",
    "COUNT = 1500": "COUNT = 24",
    "samples=32": "samples=8",
    "for _ in range(3)": "for _ in range(1)",
    "count=20_000": "count=200",
    "zip(row, (5, 8, 32))": "zip(row, (5,))",
    "(0.0, 1.0, 2.0, 4.0, 8.0)": "(0.0, 8.0)",
    "config.training.log_every = 1": "config.training.log_every = 1; config.network.update(ONE_LEVEL)",
}
"""Parts of blocks of Python and of notebooks, and what is run instead so that they end in seconds."""


class MistakeError(Exception):
    """A block that does not run as it stands."""


def split_commands(text: str) -> list[str]:
    """Returns the commands of a block, each in one line; comments and empty lines are left out."""
    lines = text.replace("\\\n", " ").split("\n")
    return [line.strip() for line in lines if line.strip() and not line.strip().startswith("#")]


def list_whole(page: Path) -> set[str]:
    """Returns the commands of a page that are run to their end: those of a new kind, and those whose results are used.

    A kind is new if no page before this one, in the order of ``PAGES``, has it; those of ``PAGE_OF`` on their page.
    """
    before = PAGES[: PAGES.index(page)]
    kinds = {kind_of(line) for earlier in before for line in list_run(earlier)}
    kinds -= {kind for kind, of in PAGE_OF.items() if of == name_of(page)}
    kinds |= {kind for kind, of in PAGE_OF.items() if of != name_of(page)}
    whole, lines = set(), list_run(page)
    for number, line in enumerate(lines):
        kind = kind_of(line)
        written = re.search(r"--(?:out|workdir)=(\S+)", line)
        name = re.compile(rf"(?<![\w./-]){re.escape(written[1])}(?![\w.-])") if written else None
        is_used = (name and any(map(name.search, lines[number + 1 :]))) or f"{line} --verify" in lines
        if (kind not in kinds or is_used) and not any(slow in line for slow in SLOW):
            whole.add(line)
        kinds.add(kind)
    return whole


def list_run(page: Path) -> list[str]:
    """Returns all commands and blocks of Python that are run on a page."""
    return [line for block in read_blocks(page) if not block.reason for line in list_lines(block)]


def kind_of(line: str) -> str:
    """Returns which command it is, such as ``train``; empty for others."""
    return line.split()[1] if line.startswith("imagen-jax ") else ""


def list_lines(block: Block) -> list[str]:
    """Returns the commands of a block, or the whole of a block of Python."""
    return {"bash": split_commands(block.text), "python": [block.text]}.get(block.language, [])


def run_command(line: str, loaders: Loaders) -> None:
    """Runs one command in this process, or until it loads something if ``loaders`` do not run on.

    Raises:
        MistakeError: it is none of ours, or does not end with status 0.
    """
    words = shlex.split(line, comments=True)
    if words in IGNORED:
        return
    if words[:3] == ["python", "-m", "imagen_jax"]:
        words = ["imagen-jax", *words[3:]]
    if words[0] != "imagen-jax" or set(words) & {"|", "&&", ">", ";", "&"}:
        raise MistakeError("only commands of imagen-jax are run: write <!-- not run: REASON --> above the block")
    if len(words) == 1 or {"--help", "-h", "--version"} & {*words}:
        command = [sys.executable, "-m", "imagen_jax", *words[1:]]
        environment = os.environ | {"PYTHONPATH": str(CHECKOUT)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise MistakeError(f"status {done.returncode}: {done.stderr[-1000:]}")
        return
    name = words[1].replace("-", "_")
    if name not in COMMANDS:
        raise MistakeError(f"there is no command {name}")
    printed = io.StringIO()
    # Commands collect garbage, and what is imported would take most of that time.
    gc.freeze()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed), contextlib.suppress(StoppedError):
        try:
            module = load_fresh(name)
            sys.argv = [name, *shrink(name, words[2:])]
            parse_flags(sys.argv)
            module.main()
        except SystemExit as error:
            if error.code:
                raise MistakeError(f"status {error.code}: {printed.getvalue()[-1000:]}") from None
        except UserError as error:
            raise MistakeError(str(error)) from None


def run_block(block: Block, whole: Collection[str], names: dict[str, Any], loaders: Loaders) -> Iterator[list[str]]:
    """Runs a block, and yields its mistakes: what was run, and the message."""
    for line in list_lines(block):
        began = time.process_time()
        loaders.run_on = block.language == "python" or line in whole
        try:
            if block.language == "python":
                run_python(line, f"{block.page}:{block.line}", names)
            else:
                run_command(line, loaders)
        except MistakeError as error:
            yield [line, str(error)]
        except Exception:
            yield [line, traceback.format_exc()]
        end = "" if loaders.run_on else "until it loads "
        print(
            f"{time.process_time() - began:6.1f} s  {end}{block.page}:{block.line} {line.splitlines()[0]}", flush=True
        )


def run_python(text: str, name: str, names: dict[str, Any]) -> None:
    """Runs Python with the given names, and hides what it prints."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        exec(compile(shrink_python(text), name, "exec"), names)


def shrink_python(text: str) -> str:
    """Returns Python at smoke size."""
    for full, smoke in SMOKE_CELLS.items():
        text = text.replace(full, smoke)
    return text


def read_cells(path: Path) -> Iterator[Block]:
    """Yields the cells of a notebook that are code, as blocks whose line is the cell's number."""
    for number, cell in enumerate(nbformat.read(path, as_version=4).cells, 1):
        if cell.cell_type == "code":
            text = cell.source
            yield Block(path.name, number, "python", text, "")


def run_page(page: Path, sandbox: Path, run_all: bool) -> list[dict[str, Any]]:
    """Runs the blocks of a page or a notebook, and returns the mistakes."""
    blocks = list(read_cells(page) if page.suffix == ".ipynb" else read_blocks(page))
    run_all = run_all or page not in PAGES
    whole = {line for block in blocks for line in list_lines(block)} if run_all else list_whole(page)
    # Names of classes in dataclasses and pickles are looked for in a module.
    names: dict[str, Any] = {"__name__": "__main__", "ONE_LEVEL": ONE_LEVEL}
    os.chdir(sandbox)
    matplotlib.use("Agg")
    pretrained.__file__ = bundled_cascades(sandbox)
    loaders = Loaders()
    mistakes = []
    with loaders.watching():
        for block in blocks:
            found = run_block(block, whole, names, loaders) if not block.reason else []
            mistakes += [{"line": block.line, "run": run, "said": said} for run, said in found]
    return mistakes


if __name__ == "__main__":
    jax.config.update("jax_compilation_cache_dir", os.environ.get("JAX_COMPILATION_CACHE_DIR"))
    # Commands have ``sys.argv`` and the present folder for themselves.
    page_file, folder = (Path(argument).resolve() for argument in sys.argv[1:3])
    (folder / "mistakes.json").write_text(json.dumps(run_page(page_file, folder, "--whole" in sys.argv)))
