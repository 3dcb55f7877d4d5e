"""What `CONTRIBUTING.md` asks of every file, where a program can tell."""

import ast
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parent.parent
PACKAGE = CHECKOUT / "imagen_jax"
MODULES = sorted(PACKAGE.rglob("*.py"))
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 70
NAMELESS = {"common", "helper", "helpers", "misc", "util", "utils"}

# A home folder or a mount of somebody's machine, or a bucket of somebody's cloud (one in capitals is a placeholder).
MACHINE_PATH = re.compile(r"(?<![\w.~$}/:-])/(?:home|Users|root|work|mnt|workspace|content)/|gs://(?![{A-Z])")

Function = ast.FunctionDef | ast.AsyncFunctionDef


def name_of(file: Path) -> str:
    return file.relative_to(CHECKOUT).as_posix()


def read(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def lines_of(node: Function) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def find_undescribed(holder: ast.Module | ast.ClassDef) -> Iterator[str]:
    """Names of public functions, classes and methods that nothing describes.

    A property may be described among its class's attributes; Linen's ``setup`` builds what its class describes.
    """
    described_by_class = {"setup"} if isinstance(holder, ast.ClassDef) else set()
    if isinstance(holder, ast.ClassDef):
        described_by_class |= set(re.findall(r"^\s*(\w+):", ast.get_docstring(holder) or "", flags=re.MULTILINE))
    for node in holder.body:
        if not isinstance(node, Function | ast.ClassDef) or node.name.startswith("_"):
            continue
        if not ast.get_docstring(node) and node.name not in described_by_class:
            yield node.name
        if isinstance(node, ast.ClassDef):
            yield from find_undescribed(node)


@pytest.mark.parametrize("file", MODULES, ids=name_of)
def test_a_file_is_short_and_named_for_what_it_holds(file):
    lines = file.read_text(encoding="utf-8").count("\n")
    assert lines <= MAX_FILE_LINES, f"{name_of(file)} has {lines} lines: it is two things, find the seam"
    assert file.stem not in NAMELESS, f"{name_of(file)} is named for nothing: a module is missing"


@pytest.mark.parametrize("file", MODULES, ids=name_of)
def test_functions_are_short(file):
    functions = [node for node in ast.walk(read(file)) if isinstance(node, Function)]
    assert [f"{node.name}: {lines_of(node)}" for node in functions if lines_of(node) > MAX_FUNCTION_LINES] == []


@pytest.mark.parametrize("file", MODULES, ids=name_of)
def test_what_is_public_is_described(file):
    assert ast.get_docstring(read(file)), f"{name_of(file)} does not say what it is"
    assert list(find_undescribed(read(file))) == []


def test_what_nothing_describes_is_found():
    source = '''
def bare(): ...
def _private(): ...
class Network:
    """A network.

    Attributes:
        width: of it.
    """
    def setup(self): ...
    def width(self): ...
    def depth(self): ...
class Bare: ...
'''
    assert list(find_undescribed(ast.parse(source))) == ["bare", "depth", "Bare"]


@pytest.mark.parametrize("folder", sorted({file.parent for file in MODULES}), ids=name_of)
def test_a_folder_says_what_it_is(folder):
    assert (folder / "__init__.py").exists(), f"{name_of(folder)} is no package"
    assert ast.get_docstring(read(folder / "__init__.py"))


def test_no_file_names_a_machine():
    folders = ["imagen_jax", "configs", "launch", "tests", ".ci"]
    files = [*CHECKOUT.glob("*"), *(file for folder in folders for file in (CHECKOUT / folder).rglob("*"))]
    texts = {"", ".json", ".lock", ".md", ".py", ".sh", ".toml"}
    named = [
        f"{name_of(file)}:{number}: {line.strip()}"
        for file in files
        # In a worktree of Git's, .git is a file.
        if file.is_file() and file.suffix in texts and file not in (Path(__file__), CHECKOUT / ".git")
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1)
        if MACHINE_PATH.search(line)
    ]
    assert named == []


@pytest.mark.parametrize("line", ['open("/home/ann/x")', "cd /mnt/main", "at /Users/ann/runs", "gs://my-bucket/x"])
def test_a_machine_path_is_recognised(line):
    assert MACHINE_PATH.search(line)


@pytest.mark.parametrize("line", ["runs/home/x", "network/work/", "$DATA/home/x", "a/root/b", "gs://BUCKET/x"])
def test_a_relative_path_is_no_machine_path(line):
    assert not MACHINE_PATH.search(line)


@pytest.mark.parametrize("file", MODULES, ids=name_of)
def test_no_promise_is_left_open(file):
    with file.open("rb") as stream:
        comments = [token.string for token in tokenize.tokenize(stream.readline) if token.type == tokenize.COMMENT]
    assert [comment for comment in comments if re.search(r"\b(TODO|FIXME|XXX|HACK)\b", comment)] == []
