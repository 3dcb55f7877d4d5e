"""Imports a class that the user names on the command line, as in ``--config.network.name=my_package.file:MyNetwork``.

Only what a user names now is imported, never what a saved or downloaded config names: importing runs code.
"""

import sys
from importlib import import_module
from typing import Any

from imagen_jax.errors import UserError


def import_class(name: str) -> Any:
    """Imports ``package.module:Class``; modules in the current folder are found too.

    Raises:
        UserError: there is no such module or class.
    """
    module_name, _, class_name = name.partition(":")
    if not module_name or not class_name:
        raise UserError(f"{name} names no class: write it as my_package.my_file:MyNetwork")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        module = import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise UserError(f"there is no module {module_name}: run the command in the folder that contains it") from error
    if not hasattr(module, class_name):
        raise UserError(f"{module_name} has no class {class_name}: check the name after the colon")
    return getattr(module, class_name)
