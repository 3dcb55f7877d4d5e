"""The help of a command: its docstring, and all its flags in groups. Neither JAX nor an extra is imported.

source of the command's module -> the ``flags.DEFINE_…`` calls in it and in the modules of flags that it imports
-> a group of flags for each module -> text, wrapped to the terminal's width

Importing a command takes seconds and needs the packages of its extra, so the calls are evaluated here alone. A name in
them, such as a table whose keys a flag accepts, is looked up in the source of its module.
"""

import ast
import importlib
import re
import shutil
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from absl import flags

from imagen_jax.runtime.module_sources import read_docstring, read_source, read_tree

HELP = ("-h", "--help", "-help")
PACKAGE = "imagen_jax"
COMMON = f"{PACKAGE}.runtime.main"
"""The module with the flags of every command."""

MIN_WIDTH, MAX_WIDTH = 60, 120
COLUMN = 28
"""Column at which the descriptions of flags begin."""

VALUES = {"int": "N", "float": "X", "string": "TEXT", "multi string": "TEXT", "comma separated list of strings": "A,B"}
"""What stands for the value of a flag, by the type that absl names."""


class CommandFlag(NamedTuple):
    """A flag of a command.

    Attributes:
        flag: absl's flag, with name, default and description.
        is_required: whether the command needs it.
        is_config: whether it names a config, whose keys are flags too.
        line: its first line in the source.
        end: its last line.
    """

    flag: flags.Flag
    is_required: bool
    is_config: bool
    line: int
    end: int


def asks_for_help(arguments: Sequence[str]) -> bool:
    """Returns whether the arguments after a command's name ask for its help."""
    before = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return not set(HELP).isdisjoint(before)


def format_help(module: str) -> str:
    """Returns the help of a command.

    Args:
        module: name of the command's module, such as ``imagen_jax.sample``.
    """
    width = min(max(shutil.get_terminal_size((MAX_WIDTH, 24)).columns, MIN_WIDTH), MAX_WIDTH)
    own, *others = [one for one in modules_of_flags(module) if one != COMMON]
    blocks = [wrap_prose(read_docstring(module), width), *format_groups("Flags", find_flags(own), width)]
    for other in others:
        title = read_docstring(other).partition("\n\n")[0].replace("\n", " ").rstrip(".")
        blocks += format_groups(title, find_flags(other), width)
    blocks += format_groups("Flags of every command", find_flags(COMMON), width)
    blocks[-1] += "\n" + format_row("-h, --help", "Print this. With --helpfull: also absl's own flags.", width)
    return "\n\n".join(blocks)


def modules_of_flags(module: str) -> list[str]:
    """Returns a command's module and the modules that it imports which define flags, each once, in order."""
    imported = [module]
    for node in read_tree(module).body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(PACKAGE):
            # A name may be a module or something in one.
            imported += [str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)]
    return [one for one in dict.fromkeys(imported) if one == module or "flags.DEFINE_" in read_source(one)]


def find_flags(module: str) -> list[CommandFlag]:
    """Returns the flags that a module defines, in order."""
    found = []
    marked = re.findall(r"mark_flag_as_required\(.(\w+).\)", read_source(module))
    for node in read_tree(module).body:
        call = getattr(node, "value", None)
        if isinstance(call, ast.Call) and (kind := name_of(call)).startswith("DEFINE_"):
            values = flags.FlagValues()
            arguments: list[Any] = [evaluate(one, module) for one in call.args]
            options = {one.arg: evaluate(one.value, module) for one in call.keywords if one.arg}
            is_config = kind == "DEFINE_config_file"
            define: Any = getattr(flags, "DEFINE_string" if is_config else kind)
            name = define(*arguments, **options, flag_values=values).name
            is_required = bool(options.get("required")) or name in marked
            found.append(CommandFlag(values[name], is_required, is_config, node.lineno, node.end_lineno or node.lineno))
    return found


def name_of(call: ast.Call) -> str:
    """Returns the name of the function that a call calls, without what it is an attribute of."""
    return getattr(call.func, "attr", "") or getattr(call.func, "id", "")


def evaluate(expression: ast.expr, module: str) -> Any:
    """Evaluates an argument in a module's source. Of a table with names of functions, only the keys are evaluated."""
    if isinstance(expression, ast.Dict):
        return dict.fromkeys(evaluate(key, module) for key in expression.keys if key is not None)
    return eval(compile(ast.Expression(expression), module, "eval"), {}, Names(module))


class Names(Mapping[str, Any]):
    """The values of the names in a module, each evaluated from the source at its use.

    Args:
        module: name of the module.
    """

    def __init__(self, module: str) -> None:
        self._module = module

    def __getitem__(self, name: str) -> Any:
        for node in read_tree(self._module).body:
            if isinstance(node, ast.Import) and name in [alias.name for alias in node.names]:
                return importlib.import_module(name)
            if isinstance(node, ast.ImportFrom) and name in [alias.name for alias in node.names]:
                return Names(str(node.module))[name]
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            if name in [target.id for target in targets if isinstance(target, ast.Name)]:
                return evaluate(node.value, self._module)  # type: ignore[attr-defined]
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


def format_groups(title: str, group: Sequence[CommandFlag], width: int) -> list[str]:
    """Returns a group's title and its flags; a blank line in the source begins another block."""
    blocks: list[list[str]] = []
    end = None
    for one in group:
        if end is None or one.line > end + 1:
            blocks.append([])
        end = one.end
        blocks[-1].append(format_row(*describe(one), width))
        if one.is_config:
            row = "Change a key of the config, such as --config.training.steps=500; repeatable."
            blocks[-1].append(format_row("--config.KEY=VALUE", row, width))
    texts = ["\n".join(block) for block in blocks]
    heading = textwrap.fill(f"{plain(title)}:", width)
    return [f"{heading}\n{texts[0]}", *texts[1:]] if texts else []


def describe(one: CommandFlag) -> tuple[str, str]:
    """Returns how a flag is written, and its description with the facts about its value."""
    flag, kind = one.flag, one.flag.flag_type()
    if kind == "bool":
        name = f"--[no]{flag.name}"
    elif isinstance(flag.parser, flags.EnumParser):
        name = f"--{flag.name}={'|'.join(flag.parser.enum_values)}"
    else:
        name = f"--{flag.name}={VALUES.get(kind, 'VALUE')}"
    # absl adds its own words to some descriptions.
    text = re.sub(r"^<[^>]*>: |;\s+repeat this option to specify a list of values$", "", flag.help or "")
    facts = []
    if kind.startswith("multi") and not re.search("repeat", text, re.IGNORECASE):
        facts.append("repeatable")
    low, high = (getattr(flag.parser, bound, None) for bound in ("lower_bound", "upper_bound"))
    if low is not None:
        facts.append(f"at least {low:g}" if high is None else f"{low} to {high}")
    if one.is_required:
        facts.append("required")
    elif flag.default not in (None, "", []):
        facts.append(f"default: {format_default(flag.default)}")
    return name, f"{text} ({'; '.join(facts)})" if facts else text


def format_default(value: Any) -> str:
    """Returns a default as a user types it."""
    if isinstance(value, list):
        return ",".join(value)
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


def format_row(name: str, description: str, width: int) -> str:
    """Returns a flag and its description as two columns."""
    begin = f"  {name}".ljust(COLUMN - 1)
    indent = " " * COLUMN
    lines = textwrap.wrap(plain(description), width - COLUMN, break_on_hyphens=False) or [""]
    if len(begin) >= COLUMN:
        return "\n".join([begin.rstrip(), *(indent + line for line in lines)])
    return "\n".join([f"{begin} {lines[0]}", *(indent + line for line in lines[1:])])


def wrap_prose(text: str, width: int) -> str:
    """Wraps the paragraphs of a docstring that are too wide. Examples, which are indented, keep their lines."""
    paragraphs = []
    for paragraph in plain(text).split("\n\n"):
        lines = paragraph.splitlines()
        is_prose = not any(line.startswith((" ", "|")) for line in lines)
        too_wide = any(len(line) > width for line in lines)
        filled = textwrap.fill(" ".join(lines), width, break_on_hyphens=False, break_long_words=False)
        paragraphs.append(filled if is_prose and too_wide else paragraph)
    return "\n\n".join(paragraphs)


def plain(text: str) -> str:
    """Returns a docstring's text without its marks of code."""
    return text.replace("``", "")
