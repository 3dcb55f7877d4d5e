"""``--help`` and ``-h`` of every command: its docstring with its lines, and all its flags, read from the source."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from imagen_jax.__main__ import COMMANDS
from imagen_jax.runtime.command_help import asks_for_help, find_flags, format_help, modules_of_flags
from imagen_jax.runtime.module_sources import read_docstring, read_source
from tests.forked_programs import run_forked

CHECKOUT = Path(__file__).parents[2]

LIST_FLAGS = """
import importlib, json, sys
from absl import flags
import imagen_jax.runtime.main

importlib.import_module(sys.argv[1])
found, required = {}, []
for module, its_flags in flags.FLAGS.flags_by_module_dict().items():
    for flag in its_flags if module.startswith("imagen_jax.") else ():
        # A config's default is None as a text.
        found[flag.name] = [None if flag.default_as_str == "'None'" else flag.default_as_str, flag.help]
        if any("must have a value" in one.message for one in flag.validators):
            required.append(flag.name)
print(json.dumps([found, required]))
"""


def flags_of_absl(module, folder):
    """Default and description of each flag that the command has, and the required ones, by importing the command."""
    program = folder / "program.py"
    program.write_text(LIST_FLAGS)
    done = run_forked(program, module)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_flags_in_the_source_are_those_that_the_command_has(command, tmp_path):
    module = COMMANDS[command]
    expected, required = flags_of_absl(module, tmp_path)
    own = [one for of in modules_of_flags(module) for one in find_flags(of)]
    common = find_flags("imagen_jax.runtime.main")
    found = {one.flag.name: one for one in own + common}
    assert found.keys() == expected.keys()
    for name, one in found.items():
        assert [one.flag.default_as_str, one.flag.help] == expected[name]
    assert sorted(name for name, one in found.items() if one.is_required) == sorted(required)
    text = format_help(module)
    assert all(re.search(rf"^  --(\[no\])?{name}\b", text, flags=re.MULTILINE) for name in expected)


@pytest.mark.parametrize("width", [60, 90, 200])
@pytest.mark.parametrize("command", COMMANDS)
def test_the_text_fits_the_terminal_and_examples_keep_their_lines(command, width, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    docstring, text = read_docstring(COMMANDS[command]), format_help(COMMANDS[command])
    examples = [line for line in docstring.splitlines() if line.startswith("    ")]
    lines = text.splitlines()
    assert examples and [line for line in lines if line in examples] == examples
    long = [line for line in lines if len(line) > min(width, 120) and line not in examples]
    assert all(re.fullmatch(r"  --\S+", line) for line in long)
    assert "``" not in text


def run(*command, **variables):
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT), "COLUMNS": "100"} | variables
    return subprocess.run([sys.executable, *command], cwd=CHECKOUT, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_is_printed_fast_and_without_jax(flag):
    began = time.perf_counter()
    done = run("-X", "importtime", "-m", "imagen_jax", "train", "--workdir=run", flag)
    seconds = time.perf_counter() - began
    assert done.returncode == 0 and done.stdout.startswith(read_docstring("imagen_jax.commands.train").splitlines()[0])
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "imagen_jax.runtime.command_help" in imported
    assert imported.isdisjoint({"jax", "numpy", "tensorflow_datasets", "grain", "ml_collections"})
    assert seconds < 5, "0.1 s on an idle machine"


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_a_module_that_python_runs_prints_the_same(flag):
    """As ``python -m imagen_jax.sample --help``."""
    done = run_forked("imagen_jax.sample", flag)
    assert done.returncode == 0 and done.stdout.splitlines()[:4] == format_help("imagen_jax.sample").splitlines()[:4]
    assert "--sampler=" in done.stdout and "--distributed" in done.stdout.replace("[no]", "")


@pytest.mark.parametrize(
    ("arguments", "asks"),
    [(["-h"], True), (["--out=x", "--help"], True), (["--prompt=-h"], False), (["--", "-h"], False), ([], False)],
)
def test_only_a_flag_asks_for_help(arguments, asks):
    assert asks_for_help(arguments) == asks


def test_what_is_no_module_has_no_source():
    assert read_source("imagen_jax.train") and not read_source("imagen_jax.train.train")
    assert not read_source("imagen_jax.nowhere.train")


@pytest.mark.parametrize(("command", "page"), [("sample", "sample.md"), ("train", "own_images.md")])
def test_the_table_of_all_flags_has_all_flags(command, page):
    text = (CHECKOUT / "docs" / page).read_text(encoding="utf-8").split(f"\n## Every flag of `{command}`\n")[1]
    table = "\n".join(line.split("|")[1] for line in text.split("\n## ")[0].split("\n") if line.startswith("|"))
    modules = [module for module in modules_of_flags(COMMANDS[command]) if module != "imagen_jax.runtime.main"]
    own = {one.flag.name for module in modules for one in find_flags(module)}
    assert set(re.findall(r"`--(\w+)`", table)) == own, "--debug, which every command has, is not in it"
