"""Fills the pages of ``docs/api``: the line ``<!-- modules of imagen_jax.diffusion -->`` becomes its modules.

So a new module is on the page of its package without a line of its own. Each has a heading, and its public functions,
classes and constants from their docstrings. The modules of the programs are those of ``COMMANDS``.
"""

import ast
import importlib
import re
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

CHECKOUT = Path(__file__).parents[2]
PAGES = CHECKOUT / "docs" / "api"
PACKAGE = "imagen_jax"
COMMANDS_PACKAGE = "imagen_jax.commands"
MARK = re.compile(r"^<!-- modules of ([\w.]+) -->$", flags=re.MULTILINE)


def list_modules() -> list[str]:
    """Returns the dotted names of all public modules and packages."""
    paths = [path.relative_to(CHECKOUT) for path in (CHECKOUT / PACKAGE).rglob("*.py")]
    names = {".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in paths}
    return sorted(name for name in names if not re.search(r"\._", name))


def modules_of(package: str) -> list[str]:
    """Returns the modules of a page: a package, its modules, and those of the packages in it.

    The page of ``COMMANDS`` has the programs, and the page of ``imagen_jax`` has what is on no other page.
    """
    commands = list_commands()
    if package == "COMMANDS":
        return [COMMANDS_PACKAGE, *commands]
    if package != PACKAGE:
        return [name for name in list_modules() if f"{name}.".startswith(f"{package}.")]
    packages = {MARK.search(page.read_text(encoding="utf-8"))[1] for page in PAGES.glob("*.md") if page.stem != "index"}
    elsewhere = {module for one in packages - {PACKAGE} for module in modules_of(one)}
    return [name for name in list_modules() if name not in elsewhere and not name.endswith("__main__")]


def list_commands() -> list[str]:
    """Returns the modules of the commands, in the order in which ``imagen-jax`` lists them."""
    return [*importlib.import_module("imagen_jax.__main__").COMMANDS.values()]


def import_commands() -> None:
    """Imports each command as if it were the only one: several define a flag of the same name."""
    flags = importlib.import_module("absl.flags").FLAGS
    for command in list_commands():
        importlib.import_module(command)
        for module, defined in flags.flags_by_module_dict().items():
            for flag in [*defined] if module.startswith(PACKAGE) else []:
                delattr(flags, flag.name)


def describe(module: str, package: str) -> str:
    """Returns the part of a page about a module."""
    directive = f"```{{eval-rst}}\n.. automodule:: {module}\n   :members: {', '.join(list_members(module))}\n```\n"
    if module == package:
        return directive
    title = module.rpartition(".")[2] if package == "COMMANDS" else module.removeprefix(f"{package}.")
    return f"## `{title}`\n\n{directive}"


def list_members(module: str) -> list[str]:
    """Returns the public names that a module defines itself.

    Without them, autodoc would look at what each module imports too, which takes most of its time.
    """
    path = CHECKOUT.joinpath(*module.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    names = []
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.append(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names += [one.id for one in targets if isinstance(one, ast.Name)]
    return [name for name in names if not name.startswith("_")]


def fill_page(app: Sphinx, docname: str, source: list[str]) -> None:
    """Replaces the marks of a page."""
    if docname.startswith("api/"):
        if "COMMANDS" in source[0]:
            import_commands()
        source[0] = MARK.sub(lambda mark: "\n".join(describe(one, mark[1]) for one in modules_of(mark[1])), source[0])


def setup(app: Sphinx) -> dict[str, Any]:
    """Connects the step to the reading of a page."""
    app.add_config_value("imagen_jax_modules", list_modules(), "env")
    app.connect("source-read", fill_page)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
