"""Compares the config of a run with the defaults of its keys, for the run's page.

config.json -> for each section: keys that the run sets, with their defaults; keys that have their defaults
"""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from imagen_jax.config.clip_sections import CLIP_SECTIONS
from imagen_jax.config.codes_sections import CODES_SECTIONS
from imagen_jax.config.reading import key_defaults, sections_of
from imagen_jax.config.section import Section
from imagen_jax.config.sections import CLASSIFIER_SECTIONS, SECTIONS
from imagen_jax.models import NETWORKS
from imagen_jax.storage.json_text import parse_json

NO_DEFAULT = "no default"
"""Shown for a key that each experiment must set."""


class Setting(NamedTuple):
    """A key of a config.

    Attributes:
        name: the key.
        value: its value.
        default: its default; ``NO_DEFAULT`` if it has none.
    """

    name: str
    value: str
    default: str


class SettingsSection(NamedTuple):
    """A section of a config.

    Attributes:
        title: its name; "" for the values outside all sections, such as the seed.
        set: keys whose value differs from the default, and keys without a default.
        unchanged: keys with their defaults.
    """

    title: str
    set: list[Setting]
    unchanged: list[Setting]


def compare_with_defaults(config: Mapping[str, Any]) -> list[SettingsSection]:
    """Returns the sections of a run's config; plain values such as the seed come first, in a section of their own."""
    plain = {key: value for key, value in config.items() if not isinstance(value, Mapping)}
    nested = {key: value for key, value in config.items() if key not in plain}
    sections = [make_section("", plain, {"seed": 0})] if plain else []
    order = [*SECTIONS, *CLASSIFIER_SECTIONS, *CLIP_SECTIONS, *CODES_SECTIONS]
    kinds = CLASSIFIER_SECTIONS if "classifier" in config else sections_of(config)
    for name in sorted(nested, key=lambda name: order.index(name) if name in order else len(order)):
        defaults = find_defaults(name, nested[name], kinds)
        sections.append(make_section(name, nested[name], defaults))
    return sections


def find_defaults(name: str, values: Mapping[str, Any], kinds: Mapping[str, type[Section]]) -> dict[str, Any]:
    """Returns the defaults of a section's keys, those of the network's module among them.

    Args:
        name: name of the section.
        values: its values by key.
        kinds: the sections of such a config.
    """
    kind = kinds.get(name)
    defaults = key_defaults(kind) if kind else {}
    module = NETWORKS.get(values.get("name", "")) if name == "network" else None
    if module is not None:
        fields = {one.name: one.default for one in dataclasses.fields(module) if is_plain(one.default)}
        # Flax's own fields are no keys of the config.
        defaults = {key: value for key, value in fields.items() if key not in ("name", "parent")} | defaults
    return defaults


def is_plain(value: Any) -> bool:
    """Returns whether a config could have this value."""
    return value is None or isinstance(value, bool | int | float | str | tuple)


def make_section(title: str, values: Mapping[str, Any], defaults: Mapping[str, Any]) -> SettingsSection:
    """Returns a section with its keys compared with their defaults."""
    differing: list[Setting] = []
    unchanged: list[Setting] = []
    for key, value in sorted(values.items()):
        is_default = key in defaults and as_json(value) == as_json(defaults[key])
        default = show(defaults[key]) if key in defaults else NO_DEFAULT
        setting = Setting(key, show(value), default)
        (unchanged if is_default else differing).append(setting)
    return SettingsSection(title, differing, unchanged)


def show(value: Any) -> str:
    """Formats a value of a config as ``--config.KEY=`` takes it; a mapping as its keys and values."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={show(part)}" for key, part in value.items()) or "{}"
    if isinstance(value, list | tuple):
        return f"({', '.join(map(repr, value))}{',' if len(value) == 1 else ''})"
    return str(value)


def as_json(value: Any) -> Any:
    """Returns a value as JSON represents it, so that a tuple equals a list."""
    return parse_json(json.dumps(value))
