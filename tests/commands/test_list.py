"""``python -m imagen_jax``: the list of commands, and the way to each."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from imagen_jax import __version__, commands
from imagen_jax.__main__ import COMMANDS, list_commands, summarise
from imagen_jax.runtime.exit_status import ExitStatus

CHECKOUT = Path(__file__).parents[2]


def run(*arguments, module="imagen_jax"):
    command = [sys.executable, "-m", module, *arguments]
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT)}
    return subprocess.run(command, cwd=CHECKOUT, env=environment, capture_output=True, text=True, check=False)


def test_each_program_is_a_command_with_a_line():
    files = {f"imagen_jax.commands.{file.stem}" for file in Path(commands.__path__[0]).glob("*.py")}
    assert set(COMMANDS.values()) == files - {"imagen_jax.commands.__init__"} | {"imagen_jax.sample"}
    for name, module in COMMANDS.items():
        assert 20 < len(summarise(module)) < 100 and f"{name} " in list_commands()


def test_old_module_names_are_still_found():
    """Commands were modules of the package itself."""
    for name in COMMANDS:
        assert find_spec(f"imagen_jax.{name}") is not None


@pytest.mark.thorough
def test_a_command_runs_under_its_new_and_its_old_name():
    flags = ["--config=configs/quickstart.py:base,smoke", "--noflops"]
    new, old = run("count", *flags), run(*flags, module="imagen_jax.count")
    assert new.returncode == old.returncode == ExitStatus.DONE
    assert new.stdout == old.stdout and "total" in new.stdout
    assert run("embed-captions").returncode == ExitStatus.USER_ERROR, "--data is missing"


def test_without_a_command_all_are_listed_and_an_unknown_one_names_the_nearest():
    assert run().stdout == run("--help").stdout == f"{list_commands()}\n"
    assert run("--version").stdout.strip() == __version__
    unknown = run("serv")
    assert unknown.returncode == ExitStatus.USER_ERROR and "serve" in unknown.stderr.splitlines()[0]
    assert unknown.stdout == ""


def test_a_config_file_that_lacks_its_neighbours_is_an_error_of_the_user(tmp_path):
    (tmp_path / "mine.py").write_text("import a_module_that_is_nowhere\n\ndef get_config(): ...\n")
    done = run("count", f"--config={tmp_path / 'mine.py'}")
    assert done.returncode == ExitStatus.USER_ERROR and "a_module_that_is_nowhere" in done.stderr
    assert "Traceback" not in done.stderr
