"""A package that is not installed: one sentence with the extra that brings it, whatever command or source needs it."""

import ast
import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from imagen_jax.__main__ import COMMANDS
from imagen_jax.errors.packages import BASE, EXTRA_OF, explain_missing_package, install

CHECKOUT = Path(__file__).parents[2]
MODULES = {"pillow": "PIL", "absl_py": "absl", "orbax_checkpoint": "orbax", "fonttools": "fontTools"}
"""The module of each distribution whose module is called otherwise."""


def read_requirements() -> dict[str, list[str]]:
    """The modules that setup.py requires: for a base install, as ``base``, and for each extra."""
    found = {}
    for node in ast.parse((CHECKOUT / "setup.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and node.targets[0].id in ("SAMPLE", "EXTRAS"):
            lists = {"base": node.value}
            if isinstance(node.value, ast.Dict):
                lists = {key.value: value for key, value in zip(node.value.keys, node.value.values, strict=True)}
            for extra, value in lists.items():
                names = [one.value for one in getattr(value, "elts", []) if isinstance(one, ast.Constant)]
                modules = [re.match(r"[A-Za-z0-9_-]+", name)[0].replace("-", "_") for name in names]
                found[extra] = [MODULES.get(module, module) for module in modules]
    return found


def test_the_table_is_that_of_setup_py():
    required = read_requirements()
    assert {"tensorflow_datasets", "ftfy"} < set(required["train"]), "the lists are read"
    for module, extra in EXTRA_OF.items():
        assert extra == "tpu" or module in required[extra]
    for extra in ("train", "openmoji", "tensorboard", "gcs", "parquet", "web"):
        assert {module for module, of in EXTRA_OF.items() if of == extra} == set(required[extra])
    # JAX is in another list, and brings jaxlib.
    assert set(BASE) - {"jax", "jaxlib"} == set(required["base"])


def test_the_command_is_for_the_installed_package_or_for_the_checkout(monkeypatch):
    monkeypatch.setattr(metadata, "distribution", lambda name: object())
    assert install("web") == 'pip install "imagen-jax[web]"' and install() == 'pip install "imagen-jax"'

    def is_nowhere(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", is_nowhere)
    assert install("web").startswith('pip install ".[web]"') and install().startswith('pip install "."')


@pytest.mark.parametrize("name", ["somebodys_package", "imagen_jax.nowhere", None])
def test_an_import_that_no_extra_mends_is_not_explained(name):
    assert explain_missing_package(ModuleNotFoundError("nowhere", name=name)) is None


def test_a_package_that_is_there_but_broken_is_not_explained():
    assert explain_missing_package(ImportError("libz.so.1: no such file", name="matplotlib")) is None


BLOCKER = """
import os, runpy, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocker())
"""

RUN_EACH = """
import jax, ml_collections.config_flags, imagen_jax.runtime.main

for module, arguments in RUNS:
    print(f"== {module} {' '.join(arguments)}", file=sys.stderr, flush=True)
    child = os.fork()
    if not child:
        sys.argv = [module, *arguments]
        # As Python's own ``-m``: an uncaught error goes to the hook.
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        except SystemExit:
            raise
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        os._exit(0)
    print(f"== status {os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}", file=sys.stderr, flush=True)
"""


RUN_MODULE = """
sys.argv = ["-m", "--workdir=run"]
runpy._run_module_as_main("imagen_jax.train", alter_argv=True)
"""
"""What ``python -m imagen_jax.train`` does."""


def run_blocked(blocked, program, folder):
    """Runs a program that can't import some packages."""
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", f"BLOCKED = {set(blocked)!r}\n{BLOCKER}{program}"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(CHECKOUT)},
        capture_output=True,
        text=True,
        timeout=120,
    )


def run_without(blocked, runs, folder) -> list[tuple[int, str]]:
    """Runs modules in a process that can't import some packages; returns status and standard error of each."""
    done = run_blocked(blocked, f"RUNS = {list(runs)!r}\n{RUN_EACH}", folder)
    parts = re.findall(r"^== (?!status).*\n((?:.*\n)*?)== status (\d+)\n", done.stderr, flags=re.MULTILINE)
    assert len(parts) == len(runs), done.stderr
    return [(int(status), text) for text, status in parts]


CONFIG = f"--config={CHECKOUT / 'configs' / 'quickstart.py'}:base,smoke"
TABLE = "--option=table=captions.parquet"
FOLDERS = ["--a=a", "--b=b"]
BUCKET = "gs:" + "//a-bucket/run"

NEEDS = [
    ("train", [CONFIG, "--workdir=run"], "train"),
    ("train_classifier", [CONFIG, "--workdir=run"], "train"),
    ("evaluate", ["--out=report"], "train"),
    ("prepare_data", ["--source=folder", "--option=folder=a", "--out=data"], "train"),
    ("embed_captions", ["--data=data", "--encoder=minilm"], "train"),
    ("embed_images", ["--data=data", "--clip=clip"], "train"),
    ("manipulate", ["--how=reconstruction", "--stages=run", "--image=a.png", f"--out={BUCKET}"], "gcs"),
    ("serve", ["--port=0"], "web"),
    ("show_run", ["--workdir=run", "--out=run.html"], "train"),
    ("classify", ["--clip=ViT-B/32", "--data=data", "--classes=openmoji_groups"], "train"),
    ("retrieval", ["--clip=ViT-B/32", "--data=data"], "train"),
    ("measure_bound", ["--stage=run", "--data=data"], "train"),
    ("rate", [*FOLDERS, "--port=0"], "web"),
    ("rate", [*FOLDERS, "--results"], "train"),
    ("compile_check", [CONFIG, "--topology=v4:2x2x1"], "tpu"),
    ("sample", ["--prompt=panda", f"--out={BUCKET}"], "gcs"),
    ("sample", ["--prompts_file=captions.parquet", "--out=pictures"], "parquet"),
    ("export_weights", [f"--workdir={BUCKET}", "--out=exported"], "gcs"),
    ("import_weights", ["--format=imagen_jax", f"--source={BUCKET}", "--out=run"], "gcs"),
]

NEED_NONE = ("count", "copy_configs")
"""Commands that a base install runs whatever their flags."""


def check_sentences(needs, blocked, folder):
    names = [("imagen_jax", [command, *rest]) for command, rest, _ in needs]
    for (command, _, extra), (status, text) in zip(needs, run_without(blocked, names, folder), strict=True):
        assert status == 2, (command, text)
        (line,) = text.splitlines()
        assert line.startswith("error: ") and f"[{extra}]" in line, (command, line)
    assert sorted(file.name for file in folder.iterdir()) == ["captions.parquet"], "nothing was begun"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "captions.parquet").touch()
    return tmp_path


def test_each_command_is_looked_at():
    assert {command for command, _, _ in NEEDS}.union(NEED_NONE) == set(COMMANDS)


@pytest.mark.thorough
def test_each_command_without_its_extra_is_one_sentence(folder):
    check_sentences(NEEDS, EXTRA_OF, folder)


def test_so_is_each_module_that_python_runs(folder):
    """As ``python -m imagen_jax.train``, whose imports fail before any of our code runs."""
    done = run_blocked(EXTRA_OF, RUN_MODULE, folder)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ") and "[train]" in line


@pytest.mark.thorough
def test_sources_and_settings_need_their_extras_too(folder):
    needs = [
        ("train", [CONFIG, "--workdir=run", "--config.training.tensorboard=True"], "tensorboard"),
        ("prepare_data", ["--source=table", TABLE, "--out=data"], "parquet"),
        ("prepare_data", ["--source=openmoji", "--out=data"], "openmoji"),
    ]
    # Matplotlib, of the extra "train", brings fontTools.
    blocked = {module for module, extra in EXTRA_OF.items() if extra != "train"} - {"fontTools"}
    check_sentences(needs, blocked, folder)


def test_a_checkout_without_any_package_says_what_to_install(tmp_path):
    program = (
        "import sys, runpy\nsys.argv = ['imagen_jax', 'sample']\nrunpy.run_module('imagen_jax', run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys\nsys.path.insert(0, {str(CHECKOUT)!r})\n{program}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ") and "needs the package " in line and 'pip install "."' in line
