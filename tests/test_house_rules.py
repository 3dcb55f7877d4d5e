"""The rules of `CONTRIBUTING.md` for every file that a program can check."""

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


def test_files_are_short_and_named_for_what_they_hold():
    lines = {name_of(file): file.read_text(encoding="utf-8").count("\n") for file in MODULES}
    assert {name: count for name, count in lines.items() if count > MAX_FILE_LINES} == {}, "find the seam"
    assert [name_of(file) for file in MODULES if file.stem in NAMELESS] == [], "a module is missing"


def test_functions_are_short():
    functions = ((file, node) for file in MODULES for node in ast.walk(read(file)) if isinstance(node, Function))
    lines = {f"{name_of(file)}: {node.name}": lines_of(node) for file, node in functions}
    assert {name: count for name, count in lines.items() if count > MAX_FUNCTION_LINES} == {}


def test_what_is_public_is_described():
    assert [name_of(file) for file in MODULES if not ast.get_docstring(read(file))] == []
    undescribed = {name_of(file): list(find_undescribed(read(file))) for file in MODULES}
    assert {name: found for name, found in undescribed.items() if found} == {}


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


def test_each_folder_is_a_package():
    folders = {file.parent for file in MODULES}
    assert [name_of(folder) for folder in folders if not (folder / "__init__.py").exists()] == []


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


def test_no_promise_is_left_open():
    promises = []
    for file in MODULES:
        with file.open("rb") as stream:
            comments = [token.string for token in tokenize.tokenize(stream.readline) if token.type == tokenize.COMMENT]
        found = [comment for comment in comments if re.search(r"\b(TODO|FIXME|XXX|HACK)\b", comment)]
        promises += [f"{name_of(file)}: {comment}" for comment in found]
    assert promises == []
