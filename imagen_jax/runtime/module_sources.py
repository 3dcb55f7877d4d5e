"""Reads the sources of modules without importing them, which takes seconds and may need an extra."""

import ast
import functools
import sys
from importlib.abc import InspectLoader
from importlib.machinery import PathFinder


def read_docstring(module: str) -> str:
    """Returns a module's docstring."""
    return ast.get_docstring(read_tree(module)) or ""


@functools.cache
def read_tree(module: str) -> ast.Module:
    """Returns the syntax tree of a module."""
    return ast.parse(read_source(module))


@functools.cache
def read_source(module: str) -> str:
    """Returns the source of a module of this package; empty if there is no such module."""
    package, *parts = module.split(".")
    places: list[str] | None = list(sys.modules[package].__path__)
    spec = None
    # importlib.util.find_spec would import all packages that the module lies in.
    for number in range(len(parts)):
        if places is None:
            return ""
        name = ".".join([package, *parts[: number + 1]])
        spec = PathFinder.find_spec(name, places)
        if spec is None:
            return ""
        places = spec.submodule_search_locations
    source = spec.loader.get_source(module) if spec and isinstance(spec.loader, InspectLoader) else None
    return source or ""
