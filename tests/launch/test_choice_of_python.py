"""Which Python the scripts make an environment with, of several on a machine that are scripts under other versions."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiers import thorough_except, thorough_rows_except

LAUNCH = Path(__file__).parents[2] / "launch"

FAKE = """#!/bin/sh
case "$*" in
"-m venv"*) echo "$0 $3" >>"$RECORD" && exit 1 ;;
*" -c "* | "-c "*) exec {python} -IS -c 'import sys; {before}; exec(sys.argv[-1])' "$@" ;;
*) exec {python} "$@" ;;
esac
"""


def write_fake(file, version="3.13.0", before="pass"):
    """Writes a Python of another version, which runs a statement before what it is given with ``-c``."""
    file.parent.mkdir(parents=True, exist_ok=True)
    set_version = f"sys.version_info = ({version.replace('.', ', ')})"
    file.write_text(FAKE.format(python=sys.executable, before=f"{set_version}; {before}"))
    file.chmod(0o755)
    return file


class Machine:
    """A checkout, and a machine without a Python until a test adds some."""

    def __init__(self, folder: Path, tools: Path):
        self.checkout, self.home, self.bin = folder / "checkout", folder / "home", folder / "bin"
        (self.checkout / "launch").mkdir(parents=True)
        for name in ("set_up.sh", "test.sh", "test_other_python.sh"):
            shutil.copy(LAUNCH / name, self.checkout / "launch")
        for name in ("setup.py", "requirements.lock"):
            shutil.copy(LAUNCH.parent / name, self.checkout)
        self.home.mkdir()
        self.bin.mkdir()
        self.environment = self.checkout / ".venv" / "bin" / "python"
        self.record = folder / "record"
        self.variables = {"PATH": f"{self.bin}:{tools}", "HOME": str(self.home), "RECORD": str(self.record)}

    def run(self, command: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-c", command],
            cwd=self.checkout,
            env={**self.variables, **variables},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def find(self, **variables: str) -> subprocess.CompletedProcess[str]:
        return self.run("source launch/set_up.sh; find_python", **variables)

    def chosen(self, **variables: str) -> Path:
        found = self.find(**variables)
        assert found.returncode == 0, found.stderr
        return Path(found.stdout.strip())

    def install(self, version: str) -> None:
        """Makes a complete environment of this version."""
        write_fake(self.environment, version)
        (self.checkout / ".venv" / "pyvenv.cfg").touch()
        done = self.run("source launch/set_up.sh; fingerprint >.venv/.installed")
        assert done.returncode == 0, done.stderr

    def made(self) -> list[tuple[str, str]]:
        """The environments that were begun: the name of the Python, and the folder."""
        lines = self.record.read_text().splitlines() if self.record.exists() else []
        return [(Path(python).name, folder) for python, folder in map(str.split, lines)]


@pytest.fixture
def machine(tmp_path, tools):
    return Machine(tmp_path, tools)


@pytest.mark.parametrize(
    ("versions", "best"),
    thorough_rows_except(
        [(["3.11.7", "3.13.0", "3.12.8"], "3.13.0"), (["3.11.7", "3.12.1"], "3.11.7")],
        [
            (["3.11.7", "3.13.0", "3.12.8"], "3.13.0"),
            (["3.11.7", "3.12.4"], "3.12.4"),
            (["3.11.7", "3.12.1"], "3.11.7"),
            (["3.11.7", "3.14.0"], "3.11.7"),
            (["3.12.1", "3.14.0"], "3.12.1"),
            (["3.10.13", "3.14.0", "3.15.0"], "3.14.0"),
        ],
    ),
)
@pytest.mark.parametrize("order", [1, pytest.param(-1, marks=pytest.mark.thorough)], ids=["rising", "falling"])
def test_the_newest_that_tests_have_passed_on_is_taken(machine, versions, best, order):
    for name, version in zip(["python3", "python3.12", "python"], versions[::order], strict=False):
        write_fake(machine.bin / name, version)
    found = machine.run(f'{machine.chosen()} -c "print(*sys.version_info, sep=chr(46))"')
    assert found.stdout.strip() == best


def test_of_equal_ones_the_default_is_taken(machine):
    default = write_fake(machine.bin / "python3")
    write_fake(machine.bin / "python3.13")
    write_fake(machine.home / ".pyenv" / "versions" / "3.13.9" / "bin" / "python3", "3.13.9")
    assert machine.chosen() == default


@pytest.mark.parametrize(
    ("folder", "variable"),
    [
        (".pyenv/versions/3.13.0/bin", None),
        ("elsewhere/versions/3.13.0/bin", ("PYENV_ROOT", "elsewhere")),
        (".local/share/uv/python/cpython-3.13.0-linux-x86_64-gnu/bin", None),
        ("elsewhere/cpython-3.13.0/bin", ("UV_PYTHON_INSTALL_DIR", "elsewhere")),
    ],
)
def test_pyenvs_and_uvs_are_found(machine, folder, variable):
    write_fake(machine.bin / "python3", "3.11.7")
    newer = write_fake(machine.home / folder / "python3")
    assert machine.chosen(**({variable[0]: str(machine.home / variable[1])} if variable else {})) == newer


@pytest.mark.parametrize(
    ("program", "place"),
    [("pyenv", "versions/3.13.0/bin/python3"), ("uv", "cpython-3.13.0/bin/python3")],
)
def test_pyenv_and_uv_are_asked_where_theirs_are(machine, program, place):
    newer = write_fake(machine.home / "elsewhere" / place)
    (machine.bin / program).write_text(f'#!/bin/sh\necho "{machine.home}/elsewhere"\n')
    (machine.bin / program).chmod(0o755)
    assert machine.chosen() == newer


@pytest.mark.parametrize(
    "before",
    [
        "sys.exit(127)",
        'sys.modules["ensurepip"] = None',
        'sys.modules["ssl"] = None',
        'sys.implementation.name = "pypy"',
        'sys.abiflags = "t"',
    ],
    ids=["broken", "no ensurepip", "no ssl", "PyPy", "free-threaded"],
)
def test_one_that_will_not_do_is_passed_over(machine, before):
    good = write_fake(machine.bin / "python3.11", "3.11.7")
    bad = write_fake(machine.bin / "python3.13", before=before)
    write_fake(machine.bin / "python3", before=before)
    assert machine.chosen() == good
    good.unlink()
    refused = machine.find()
    assert refused.returncode == 2 and not refused.stdout
    assert (str(bad.parent) in refused.stderr) == ("modules" in before)


def test_pythons_own_name_goes_before_all(machine):
    write_fake(machine.bin / "python3")
    named = write_fake(machine.home / "python", "3.11.7")
    assert machine.chosen(PYTHON=str(named)) == named
    for file in (machine.home / "absent", write_fake(machine.home / "old", "3.10.13")):
        refused = machine.find(PYTHON=str(file))
        assert refused.returncode == 2 and str(file) in refused.stderr


def test_the_environment_itself_is_no_python_to_make_it_with(machine):
    write_fake(machine.environment)
    write_fake(machine.environment.with_name("python3"))
    other = write_fake(machine.bin / "python3.11", "3.11.7")
    assert machine.chosen(PATH=f"{machine.environment.parent}:{machine.variables['PATH']}") == other


@pytest.mark.parametrize("version", thorough_except(["3.12.1"], ["3.11.7", "3.12.1", "3.14.0"]))
def test_an_environment_stays_when_a_newer_python_appears(machine, version):
    machine.install(version)
    newer = write_fake(machine.bin / "python3.13")
    done = machine.run("source launch/set_up.sh; set_up")
    assert (done.returncode, done.stdout, done.stderr, machine.made()) == (0, "", "", [])
    machine.run("source launch/set_up.sh; set_up", PYTHON=str(newer))
    assert machine.made() == [("python3.13", ".venv")]


def test_the_references_are_compared_with_on_python_3_11(machine):
    write_fake(machine.bin / "python3.13")
    machine.run("bash launch/test.sh --with-references")
    write_fake(machine.bin / "python3.11", "3.11.7")
    machine.run("bash launch/test.sh --with-references")
    machine.run("bash launch/test.sh")
    machine.run("bash launch/test.sh --with-references", PYTHON="python3.13")
    made = ["python3.13", "python3.11", "python3.13", "python3.13"]
    assert machine.made() == [(python, ".venv") for python in made]


@pytest.mark.parametrize("version", thorough_except(["3.13.0"], ["3.12.4", "3.13.0"]))
def test_an_environment_of_another_python_stays_where_references_are_compared_with(machine, version):
    machine.install(version)
    write_fake(machine.bin / "python3.11", "3.11.7")
    machine.run("bash launch/test.sh --with-references")
    assert (
        machine.made() == [("python3.11", ".venv-references")] and (machine.checkout / ".venv" / ".installed").exists()
    )


@pytest.mark.parametrize(
    ("versions", "made"),
    thorough_rows_except(
        [(["3.11.7", "3.12.4", "3.13.0"], [("python3.13", ".venv-other")]), (["3.11.7", "3.12.1"], [])],
        [
            (["3.11.7", "3.12.4"], [("python3.12", ".venv-other")]),
            (["3.11.7", "3.12.4", "3.13.0"], [("python3.13", ".venv-other")]),
            (["3.11.7"], []),
            (["3.11.7", "3.12.1"], []),
            (["3.11.7", "3.14.0"], []),
        ],
    ),
)
def test_the_other_python_is_the_newest_that_tests_have_passed_on(machine, versions, made):
    for version in versions:
        write_fake(machine.bin / f"python{version.rpartition('.')[0]}", version)
    done = machine.run("bash launch/test_other_python.sh")
    assert machine.made() == made
    assert bool(done.returncode) == bool(made), done.stderr


def test_without_python_3_11_the_other_is_another_than_the_environments(machine):
    machine.install("3.13.0")
    write_fake(machine.bin / "python3.13")
    assert machine.run("bash launch/test_other_python.sh").returncode == 0 and machine.made() == []
    write_fake(machine.bin / "python3.12", "3.12.4")
    machine.run("bash launch/test_other_python.sh")
    assert machine.made() == [("python3.12", ".venv-other")]
