"""Loads configs: the bundled ones by name, and the user's own files.

    own_images:base, imagen/base_64:500m    -> a bundled config and its variant
    FOLDER/mine.py:small                    -> a file of the user, which ends in .py, and its variant
    file -> its get_config(variant)         -> ConfigDict, locked: assigning an unknown key raises

The bundled configs are the files of ``configs/`` in a checkout, which a wheel contains as ``imagen_jax/configs``. A
config file may import its neighbours as ``from . import NAME``. Each load reads the file and its neighbours again. It
does not run the ``__init__.py`` of their folder.
"""

import importlib
import importlib.util
import os
import pathlib
import sys
from types import ModuleType
from typing import Any

from ml_collections import ConfigDict

from imagen_jax.errors import UserError, nearest_name
from imagen_jax.runtime.renamed import rename_config_keys

LOADED = "imagen_jax_config_files"
"""Name in ``sys.modules`` of the package that the loaded files form."""

EXAMPLE = "--config=own_images:base"

PACKAGE = pathlib.Path(__file__).parents[1]


def load_config(name: str | os.PathLike[str]) -> ConfigDict:
    """Loads a bundled config, or a config file.

    Args:
        name: name of a bundled config or path of a file that ends in ``.py``, and optionally a variant, as in
            ``"quickstart:base"``, ``"imagen/base_64:500m"`` or ``"configs/mine.py:small"``.

    Returns:
        The config. Its values can be set, and a new key raises ``AttributeError``.

    Raises:
        UserError: there is no such config or variant, or the file is no config file or raises an error.
    """
    config = read_config(name)
    rename_config_keys(config)
    return config


def read_config(name: str | os.PathLike[str]) -> ConfigDict:
    """Loads a config as ``load_config`` does, with the names of its keys as they are in the file.

    Raises:
        UserError: as in ``load_config``.
    """
    place, colon, variant = os.fspath(name).partition(":")
    if variant.startswith("//"):
        raise UserError(f"{os.fspath(name)} is not on this machine: copy the config file here, with those it imports")
    file = find_config_file(place, f"{colon}{variant}")
    module = load_module(file)
    if not callable(getattr(module, "get_config", None)):
        raise UserError(f"{file} is not a config file, because it has no get_config: name another file of its folder")
    try:
        config = module.get_config(variant) if colon else module.get_config()
    except Exception as error:
        raise UserError(f"{place}: {error if isinstance(error, ValueError | UserError) else repr(error)}") from error
    if not isinstance(config, ConfigDict):
        raise UserError(f"get_config of {file} returns {type(config).__name__}: return an ml_collections.ConfigDict")
    config.lock()
    return config


def find_config_file(place: str, variant: str = "") -> pathlib.Path:
    """Returns the file of a bundled config's name, or of a path.

    Args:
        place: name or path.
        variant: the variant with its colon, for the message.

    Raises:
        UserError: there is no such file or config. The message names the bundled one, and the command that copies it.
    """
    bundled, path = find_bundled_configs(), pathlib.Path(place)
    if path.is_file():
        return path
    if place in bundled:
        return bundled[place]
    if path.is_dir():
        raise UserError(f"{place} is a folder: name a file of it, as in --config={place}/quickstart.py:base")
    if path.suffix != ".py":
        known = nearest_name(place, bundled)
        raise UserError(f"there is no bundled config {place!r}, nor is it a file, such as mine.py{known}")
    # As configs/imagen/base_64.py, which is a file only in a checkout.
    same = [name for name in bundled if f"/{place}".endswith(f"/{name}.py")]
    example = f"--config={max(same, key=len)}{variant}" if same else f"a bundled config, as in {EXAMPLE}"
    raise UserError(
        f"there is no file {place}: give {example}, or copy the bundled configs with `imagen-jax copy_configs "
        "--out=configs` and change them"
    )


def find_bundled_configs() -> dict[str, pathlib.Path]:
    """Returns the file of each bundled config by its name, such as ``"imagen/base_64"``, sorted by name."""
    folder = find_bundled_folder()
    files = {file.relative_to(folder).with_suffix("").as_posix(): file for file in list_bundled_files()}
    return {name: file for name, file in files.items() if "\ndef get_config(" in file.read_text(encoding="utf-8")}


def list_bundled_files() -> list[pathlib.Path]:
    """Returns the files of the bundled configs, also those that only the others import."""
    return sorted(find_bundled_folder().rglob("*.py"))


def find_bundled_folder() -> pathlib.Path:
    """Returns the folder of the bundled configs: within the package where a wheel is installed, else beside it."""
    installed = PACKAGE / "configs"
    return installed if installed.is_dir() else PACKAGE.parent / "configs"


def list_folders(file: pathlib.Path) -> list[pathlib.Path]:
    """Returns the folder of a file, after those above it that are packages with it, the outermost first."""
    folders = [file.parent]
    while (folders[0] / "__init__.py").exists() and (folders[0].parent / "__init__.py").exists():
        folders.insert(0, folders[0].parent)
    return folders


def load_module(file: pathlib.Path) -> ModuleType:
    """Runs a file as a module of a package that contains the files of its folder.

    Raises:
        UserError: the file or one that it imports raises an error, or can't be read.
    """
    for name in [name for name in sys.modules if name.partition(".")[0] == LOADED]:
        del sys.modules[name]
    importlib.invalidate_caches()
    package = ""
    for folder in list_folders(file.absolute()):
        package = f"{package}.{folder.name}" if package else LOADED
        made: Any = ModuleType(package)
        made.__path__ = [str(folder)]
        sys.modules[package] = made
    spec = importlib.util.spec_from_file_location(f"{package}.{file.stem}", file)
    if spec is None or spec.loader is None:
        raise UserError(f"{file} is not a config file: its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except ModuleNotFoundError as error:
        missing = (error.name or "").removeprefix(f"{LOADED}.")
        raise UserError(
            f"the config file {file} can't import {missing}: run this in the folder that has it, or install it"
        ) from error
    except (Exception, SystemExit) as error:
        raise UserError(f"the config file {file} raises {type(error).__name__}: {error}: fix it") from error
    return module
