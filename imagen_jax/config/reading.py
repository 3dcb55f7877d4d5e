"""Reads the sections of a config from nested mappings, and completes configs of older versions.

``ConfigDict`` or JSON -> plain dicts -> a frozen section: names and types checked, defaults for missing keys
"""

import dataclasses
import numbers
from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Any, TypeAlias, TypeVar, get_args, get_origin, get_type_hints

from absl import logging
from ml_collections import ConfigDict

from imagen_jax.config.clip_sections import CLIP_SECTIONS
from imagen_jax.config.codes_sections import CODES_SECTIONS
from imagen_jax.config.section import Section
from imagen_jax.config.sections import CLASSIFIER_SECTIONS, SECTIONS
from imagen_jax.errors import UserError, check_names

Given: TypeAlias = ConfigDict | Mapping[str, Any]
"""A config as a file makes it, or as plain mappings."""

AnySection = TypeVar("AnySection", bound=Section)

SIMPLE: dict[Any, tuple[Any, str]] = {
    bool: (bool, "True or False"),
    int: (numbers.Integral, "an integer"),
    float: (numbers.Real, "a number"),
    str: (str, "a string"),
    NoneType: (NoneType, "None"),
}
"""What a value of each type must be an instance of, and the name of the type in messages."""


def to_plain(config: Given) -> dict[str, Any]:
    """Returns a config as nested dicts."""
    return {key: to_plain(value) if isinstance(value, ConfigDict | Mapping) else value for key, value in config.items()}


def key_types(kind: type[Section]) -> dict[str, Any]:
    """Returns the type of each key of a section, without the keys that ``rest`` takes."""
    hints = get_type_hints(kind)
    return {one.name: hints[one.name] for one in dataclasses.fields(kind) if one.name != kind.rest}


def key_defaults(kind: type[Section]) -> dict[str, Any]:
    """Returns the default of each key of a section that has one, without the keys that ``rest`` takes."""
    defaults = {}
    for one in dataclasses.fields(kind):
        if one.name != kind.rest and one.default is not dataclasses.MISSING:
            defaults[one.name] = one.default
        elif one.name != kind.rest and one.default_factory is not dataclasses.MISSING:
            defaults[one.name] = one.default_factory()
    return defaults


def is_clip(config: Given) -> bool:
    """Returns whether a config is that of a CLIP, and not that of a stage."""
    return "clip" in config and "stage" not in config


def is_codes(config: Given) -> bool:
    """Returns whether a config is that of a prior of codes."""
    return "codes" in config and "stage" not in config


def sections_of(config: Mapping[str, Any]) -> Mapping[str, type[Section]]:
    """Returns the sections that a config may have, by what it trains; a stage's may have those of a classifier too."""
    if is_clip(config):
        return CLIP_SECTIONS
    return CODES_SECTIONS if is_codes(config) else CLASSIFIER_SECTIONS | SECTIONS


def with_defaults(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a config whose sections have all keys: those that are missing get their defaults.

    Raises:
        TypeError: a section is no mapping.
    """
    completed = dict(config)
    for name, kind in sections_of(config).items():
        if name in config:
            if not isinstance(config[name], Mapping):
                raise TypeError(f"{name} is {config[name]!r}, and not a section")
            completed[name] = key_defaults(kind) | config[name]
    return completed


def read_section(
    kind: type[AnySection], given: Any, name: str, elsewhere: Mapping[str, str] | None = None
) -> AnySection:
    """Reads a section.

    Args:
        kind: its dataclass.
        given: its values by key. Missing keys get their defaults, and lists become tuples.
        name: its name in the config.
        elsewhere: our name for each name that other libraries use.

    Raises:
        UserError: it is no mapping, or a key is unknown (the message names the nearest), has a value of another type,
            or is missing and has no default.
    """
    if not isinstance(given, Mapping):
        raise UserError(f"config.{name} is a section with keys, not {given!r}")
    types = key_types(kind)
    if kind.rest is None:
        check_names(given, types, f"key of config.{name}:", elsewhere)
    values = {key: fit(given[key], wanted, f"{name}.{key}") for key, wanted in types.items() if key in given}
    for key in types:
        if key not in given and key not in key_defaults(kind):
            raise UserError(f"config.{name}.{key} is missing: set it in the config file")
    if kind.rest is not None:
        values[kind.rest] = {key: freeze(value) for key, value in given.items() if key not in types}
    return kind(**values)


def known_keys(kind: type[Section], given: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Returns the keys of a saved section that this version knows. Logs a warning of the others."""
    types = key_types(kind)
    unknown = [key for key in given if key not in types]
    if unknown:
        logging.warning("unknown keys of %s are ignored: %s", name, ", ".join(unknown))
    return {key: value for key, value in given.items() if key in types}


def fit(value: Any, wanted: Any, key: str) -> Any:
    """Returns a value of a key as its type, see ``is_of``.

    Raises:
        UserError: the value has another type; the message names the key.
    """
    if not is_of(value, wanted):
        raise UserError(f"config.{key} is {value!r}: set it to {describe(wanted)}")
    return convert(value, wanted)


def convert(value: Any, wanted: Any) -> Any:
    """Converts a value that ``is_of`` a type."""
    origin = get_origin(wanted)
    if origin is UnionType:
        return convert(value, next(one for one in get_args(wanted) if is_of(value, one)))
    if origin is tuple:
        return tuple(convert(one, get_args(wanted)[0]) for one in value)
    return wanted(value) if wanted in (int, float) else value


def is_of(value: Any, wanted: Any) -> bool:
    """Returns whether a value has a type of ``sections``.

    A list counts as a tuple, a whole number as a float, and a float such as 1e4 as a whole number.
    """
    origin = get_origin(wanted)
    if origin is UnionType:
        return any(is_of(value, one) for one in get_args(wanted))
    if origin is tuple:
        return isinstance(value, list | tuple) and all(is_of(one, get_args(wanted)[0]) for one in value)
    if origin is Mapping:
        return isinstance(value, Mapping)
    if wanted is int and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, SIMPLE[wanted][0]) and (wanted is bool or not isinstance(value, bool))


def describe(wanted: Any) -> str:
    """Returns the name of a type of ``sections`` in messages."""
    origin = get_origin(wanted)
    if origin is UnionType:
        return " or ".join(map(describe, get_args(wanted)))
    if origin is tuple:
        return f"a list, each entry {describe(get_args(wanted)[0])}"
    return "a section with keys" if origin is Mapping else SIMPLE[wanted][1]


def freeze(value: Any) -> Any:
    """Returns a value with tuples for lists, as from JSON."""
    return tuple(map(freeze, value)) if isinstance(value, list | tuple) else value
