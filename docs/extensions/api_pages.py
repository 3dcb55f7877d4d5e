"""Fills the pages of ``docs/api``: the line ``<!-- modules of imagen_jax.diffusion -->`` becomes its modules.

So a new module is on the page of its package without a line of its own. Each has a heading, and its public functions,
classes and constants from their docstrings.
"""

import re
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

CHECKOUT = Path(__file__).parents[2]
PACKAGE = "imagen_jax"
MARK = re.compile(r"^<!-- modules of ([\w., ]+) -->$", flags=re.MULTILINE)


def list_modules() -> list[str]:
    """Returns the dotted names of all public modules and packages."""
    paths = [path.relative_to(CHECKOUT) for path in (CHECKOUT / PACKAGE).rglob("*.py")]
    names = {".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in paths}
    return sorted(name for name in names if not re.search(r"\._", name))


def modules_of(package: str) -> list[str]:
    """Returns a package, its modules, and those of the packages in it; of ``imagen_jax`` itself its modules alone."""
    modules = [name for name in list_modules() if f"{name}.".startswith(f"{package}.")]
    if package == PACKAGE:
        folders = {name.rpartition(".")[0] for name in list_modules() if name.count(".") > 1}
        modules = [name for name in modules if name.count(".") <= 1 and name not in folders]
        modules = [name for name in modules if (CHECKOUT / PACKAGE / f"{name.rpartition('.')[2]}.py").exists()]
    return modules


def describe(module: str, package: str) -> str:
    """Returns the part of a page about a module."""
    directive = f"```{{eval-rst}}\n.. automodule:: {module}\n```\n"
    if module == package:
        return directive
    return f"## `{module.removeprefix(f'{package}.')}`\n\n{directive}"


def fill_page(app: Sphinx, docname: str, source: list[str]) -> None:
    """Replaces the marks of a page."""
    if docname.startswith("api/"):
        source[0] = MARK.sub(lambda mark: "\n".join(describe(one, mark[1]) for one in modules_of(mark[1])), source[0])


def setup(app: Sphinx) -> dict[str, Any]:
    """Connects the step to the reading of a page."""
    app.add_config_value("imagen_jax_modules", list_modules(), "env")
    app.connect("source-read", fill_page)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
