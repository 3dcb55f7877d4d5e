"""Turns this package's docstrings into reStructuredText.

The docstrings are written to be read in an editor: formulas, diagrams, commands and tables are plain text in columns.
Sphinx would run their lines together. Here a block in columns becomes a literal block, a Markdown table becomes a
table, and the names of modules become links.
"""

import importlib
import re
import sys
import textwrap
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.domains.python import PyObject, PythonDomain

PACKAGE = "imagen_jax"
INDENT = "    "
MAX_VALUE = 40
"""Max length of the value of a constant that is shown."""


def setup(app: Sphinx) -> dict[str, Any]:
    """Connects the steps to autodoc."""
    # Before napoleon, which is at 500, and after it.
    app.connect("autodoc-process-docstring", process_docstring, priority=400)
    app.connect("autodoc-process-docstring", restore_constant, priority=600)
    app.connect("autodoc-process-signature", shorten_defaults)
    app.connect("autodoc-skip-member", skip_member)
    app.connect("doctree-read", remove_long_values)
    app.connect("missing-reference", find_constant)
    app.add_domain(IndexedDomain, override=True)
    name_array_types()
    for field in PyObject.doc_field_types:
        field.label = {"variable": "Attributes"}.get(field.name, field.label)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


class IndexedDomain(PythonDomain):
    """Sphinx's domain of Python, which does not search all names of the site for one that is in another library.

    That search took a third of the build.
    """

    def find_obj(self, env: Any, modname: Any, classname: Any, name: str, *others: Any, **named: Any) -> list[Any]:
        """Returns the objects with a name."""
        if len(self.objects) != self.indexed:
            self.indexed, self.last_parts = len(self.objects), frozenset(one.rpartition(".")[2] for one in self.objects)
        if name.removesuffix("()").rpartition(".")[2] not in self.last_parts:
            return []
        return super().find_obj(env, modname, classname, name, *others, **named)

    indexed = -1
    last_parts: frozenset[str] = frozenset()


def process_docstring(app: Sphinx, kind: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Rewrites the lines of a docstring in place."""
    paragraphs = split_paragraphs(lines)
    if kind == "module":
        paragraphs = convert_paragraphs(paragraphs)
    link = make_linker(name, app.config.imagen_jax_modules) if kind == "module" else str
    for number, paragraph in enumerate(paragraphs):
        if not is_block(paragraph):
            paragraphs[number] = escape(link("\n".join(paragraph))).split("\n")
    lines[:] = [line for paragraph in paragraphs for line in [*paragraph, ""]]
    if kind in ("data", "attribute", "property"):
        CONSTANTS[name] = list(lines)


CONSTANTS: dict[str, list[str]] = {}
"""Docstrings of constants, by name: napoleon would take what is before the first colon for a type."""


def restore_constant(app: Sphinx, kind: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Undoes what napoleon did to the docstring of a constant."""
    lines[:] = CONSTANTS.pop(name, lines)


def remove_long_values(app: Sphinx, doctree: nodes.document) -> None:
    """Removes the values of constants that are long, such as a table of functions."""
    for node in list(doctree.findall(addnodes.desc_annotation)):
        if node.astext().startswith(" = ") and len(node.astext()) > MAX_VALUE:
            node.parent.remove(node)


def name_array_types() -> None:
    """Gives array types the names that the package gives them, so that signatures say ``Images``."""
    module = importlib.import_module(f"{PACKAGE}.array_types")
    for name, kind in vars(module).items():
        if isinstance(kind, type) and kind.__module__.startswith("jaxtyping"):
            kind.__module__, kind.__name__, kind.__qualname__ = module.__name__, name, name


def find_constant(app: Sphinx, env: Any, node: Any, content: Any) -> Any:
    """Resolves a reference to a class that is documented as a constant, as type aliases are; a variable is no link."""
    if node.get("refdomain") != "py" or node.get("reftype") != "class":
        return None
    module, _, name = node["reftarget"].rpartition(".")
    if isinstance(getattr(sys.modules.get(module), name, None), TypeVar):
        return content
    domain = env.get_domain("py")
    return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", node["reftarget"], node, content)


def escape(text: str) -> str:
    """Escapes what reStructuredText would read as markup: ``|x|``, "k. " in a new line, a letter after a literal."""
    parts = re.split(r"(``[^`]+``)", text)
    parts[::2] = [part.replace("|", "\\|") for part in parts[::2]]
    parts[2::2] = [f"\\ {part}" if part[:1].isalnum() else part for part in parts[2::2]]
    return re.sub(r"^( *[a-zA-Z])\. ", r"\1\\. ", "".join(parts), flags=re.MULTILINE)


def shorten_defaults(
    app: Sphinx, kind: str, name: str, thing: Any, options: Any, signature: str | None, returned: str | None
) -> tuple[str | None, str | None]:
    """Replaces defaults that are no Python, such as ``<factory>``, without which a signature can't be parsed."""
    return signature and re.sub(r"= <[^<>]*>", "= ...", signature), returned


def skip_member(app: Sphinx, kind: str, name: str, thing: Any, skip: bool, options: Any) -> bool | None:
    """Leaves out the fields of a named tuple, which its docstring describes."""
    return True if str(getattr(thing, "__doc__", "")).startswith("Alias for field number") else None


def split_paragraphs(lines: Sequence[str]) -> list[list[str]]:
    """Returns the paragraphs, without the empty lines between them."""
    text = "\n".join(lines)
    return [paragraph.split("\n") for paragraph in re.split(r"\n\s*\n", text.strip("\n"))]


def convert_paragraphs(paragraphs: Sequence[list[str]]) -> list[list[str]]:
    """Returns the paragraphs with columns, Markdown tables and indented blocks converted."""
    converted: list[list[str]] = []
    in_literal = False
    for paragraph in paragraphs:
        is_indented = all(line.startswith("  ") or not line for line in paragraph)
        in_literal = in_literal and is_indented
        if in_literal or is_rst_table(paragraph):
            converted.append(paragraph)
        elif all(line.startswith("|") for line in paragraph):
            converted.append(convert_table(paragraph))
        elif is_indented or is_in_columns(paragraph):
            lines = textwrap.dedent("\n".join(paragraph)).split("\n")
            converted.append([".. code-block:: text", "", *(INDENT + line for line in lines)])
            in_literal = is_indented
        else:
            converted.append(paragraph)
            in_literal = paragraph[-1].endswith("::")
    return converted


def is_block(paragraph: Sequence[str]) -> bool:
    """Whether a paragraph is literal, or a table."""
    return paragraph[0].startswith((INDENT, "..", "=="))


def is_rst_table(paragraph: Sequence[str]) -> bool:
    """Whether a paragraph is a table of reStructuredText."""
    return paragraph[0].startswith("==")


def is_in_columns(paragraph: Sequence[str]) -> bool:
    """Whether the lines of a paragraph are rows, as in a list of files or a chain of arrows."""
    if paragraph[0].startswith(("- ", "* ")):
        return False
    has_columns = sum(bool(re.search(r"\S {3,}\S", line)) for line in paragraph) * 2 > len(paragraph)
    return has_columns or (len(paragraph) > 1 and all(" -> " in line for line in paragraph))


def convert_table(paragraph: Sequence[str]) -> list[str]:
    """Returns a Markdown table as a table of reStructuredText."""
    rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))] for line in paragraph]
    rows = [row for row in rows if not all(re.fullmatch(r":?-+:?", cell) for cell in row)]
    lines = [".. list-table::", "   :header-rows: 1", ""]
    for row in rows:
        lines += [f"   {'* -' if number == 0 else '  -'} {cell}" for number, cell in enumerate(row)]
    return lines


def make_linker(name: str, modules: Sequence[str]) -> Callable[[str], str]:
    """Returns a function that makes links of the modules that a text of a module's docstring names."""
    room = name if f"{name}.__init__" in modules or any(one.startswith(f"{name}.") for one in modules) else ""
    room = room or name.rpartition(".")[0]

    def link(match: re.Match[str]) -> str:
        for full in (f"{room}.{match[1]}", f"{PACKAGE}.{match[1]}", match[1]):
            if full in modules and full != name:
                return f":py:mod:`{match[1]} <{full}>`" + ("\\ " if match[2] else "")
        return match[0]

    return lambda text: re.sub(r"``([\w.]+?)(?:\.py|/)?``(?=(\w?))", link, text)
