"""Lists the commands and runs one of them.

    python -m imagen_jax                    lists the commands
    python -m imagen_jax COMMAND --help     explains a command and its flags
    python -m imagen_jax COMMAND …          runs a command

``imagen-jax COMMAND`` does the same where the package is installed.
"""

import os
import runpy
import sys

from imagen_jax import __version__
from imagen_jax.errors import nearest_name
from imagen_jax.runtime.exit_status import ExitStatus
from imagen_jax.runtime.memory import restart_with_large_pages
from imagen_jax.runtime.missing_packages import explain_at_exit
from imagen_jax.runtime.module_sources import read_docstring
from imagen_jax.runtime.standard_streams import make_streams_resilient

COMMANDS = {
    "train": "imagen_jax.commands.train",
    "sample": "imagen_jax.sample",
    "evaluate": "imagen_jax.commands.evaluate",
    "prepare_data": "imagen_jax.commands.prepare_data",
    "embed_captions": "imagen_jax.commands.embed_captions",
    "embed_images": "imagen_jax.commands.embed_images",
    "manipulate": "imagen_jax.commands.manipulate",
    "serve": "imagen_jax.commands.serve",
    "rate": "imagen_jax.commands.rate",
    "import_weights": "imagen_jax.commands.import_weights",
    "export_weights": "imagen_jax.commands.export_weights",
    "train_classifier": "imagen_jax.commands.train_classifier",
    "classify": "imagen_jax.commands.classify",
    "retrieval": "imagen_jax.commands.retrieval",
    "measure_bound": "imagen_jax.commands.measure_bound",
    "show_run": "imagen_jax.commands.show_run",
    "count": "imagen_jax.commands.count",
    "compile_check": "imagen_jax.commands.compile_check",
    "copy_configs": "imagen_jax.commands.copy_configs",
}
"""The module of each command."""


def main() -> None:
    """Runs the command that the first argument names."""
    make_streams_resilient()
    explain_at_exit()
    name = sys.argv[1] if len(sys.argv) > 1 else "help"
    if name in ("help", "-h", "--help"):
        print(list_commands())
    elif name == "--version":
        print(__version__)
    elif name.replace("-", "_") in COMMANDS:
        run(name.replace("-", "_"))
    else:
        print(f"error: there is no command {name}{nearest_name(name, COMMANDS)}\n\n{list_commands()}", file=sys.stderr)
        sys.exit(ExitStatus.USER_ERROR)


def run(name: str) -> None:
    """Runs a command as ``python -m`` does, with the arguments that follow its name, or prints its help."""
    # Here, for absl may be missing. The module of the command imports JAX first, which takes seconds.
    from imagen_jax.runtime.command_help import asks_for_help, format_help

    if asks_for_help(sys.argv[2:]):
        print(format_help(COMMANDS[name]))
        return
    # Here, for the module of the command imports JAX first.
    if name == "train":
        restart_with_large_pages()
    del sys.argv[1]
    # ``python -m`` has it already. A config file can then import its neighbours, as in ``from configs import base``.
    if {"", os.getcwd()}.isdisjoint(sys.path):
        sys.path.append(os.getcwd())
    runpy.run_module(COMMANDS[name], run_name="__main__", alter_sys=True)


def list_commands() -> str:
    """Returns the usage line and all commands, each with the first line of its module's docstring."""
    width = max(map(len, COMMANDS))
    lines = [f"    {name:{width}}  {summarise(module)}" for name, module in COMMANDS.items()]
    return "\n".join(["usage: imagen-jax COMMAND [--flags]", "", *lines, "", "Run COMMAND --help for its flags."])


def summarise(module: str) -> str:
    """Returns the first line of a module's docstring, without importing the module."""
    return read_docstring(module).partition("\n")[0]


if __name__ == "__main__":
    main()
