"""Old names of flags and config keys, which still work and print one warning each.

    command line -> the same with new names;   config, of a file or of an old workdir -> the same with new names

Flags and keys of configs that a user writes will stop working one version after they were renamed. Configs that were
saved with a run are read for ever.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

FLAGS = {
    "returns": "resample",
    "guide_at_once": "batched_guidance",
    "largest_bad_share": "max_bad_fraction",
    "least_side": "min_side",
    "largest_aspect": "max_aspect",
    "fewest_words": "min_words",
    "most_words": "max_words",
    "largest_steps": "max_steps",
    "largest_queue": "max_queue",
}
"""Old name of each renamed flag, and its new one."""

KEYS: dict[str, dict[str, str]] = {
    "data": {"largest_bad_share": "max_bad_fraction"},
    "stage": {"noise_measure": "noise_conditioning"},
    "training": {
        "accumulate": "gradient_accumulation",
        "skips_in_a_row": "max_consecutive_nonfinite",
        "when_not_finite": "on_nonfinite",
        "most_rewinds": "max_rewinds",
    },
    "sampling": {"guide_at_once": "batched_guidance", "largest_bound": "max_threshold"},
}
"""Old name of each renamed key of a section of the config, and its new one."""

VALUES = {("stage", "noise_conditioning"): {"step_number": "timestep"}}
"""Old and new values of keys, by section and new name."""


def rename_flags(arguments: Sequence[str]) -> list[str]:
    """Returns a command line with the new names of flags; prints a warning for each old one.

    Config keys such as ``--config.training.accumulate=2`` keep their names: which one is right depends on the file.
    """
    renamed = []
    for argument in arguments:
        dashes = argument[: len(argument) - len(argument.lstrip("-"))]
        name, equals, value = argument[len(dashes) :].partition("=")
        negation = "no" if name.startswith("no") and name[2:] in FLAGS else ""
        new = FLAGS.get(name.removeprefix(negation))
        if 0 < len(dashes) <= 2 and new is not None:
            warn(f"--{name}", f"--{negation}{new}")
            argument = f"{dashes}{negation}{new}{equals}{value}"
        renamed.append(argument)
    return renamed


def find_old_key(argument: str) -> tuple[str, str] | None:
    """Returns section and key of a ``--config.SECTION.KEY`` with an old name; None for any other argument."""
    parts = argument.partition("=")[0].lstrip("-").split(".")
    is_key = argument.startswith("-") and len(parts) == 3 and parts[0] in ("config", "noconfig")
    return (parts[1], parts[2]) if is_key and parts[2] in KEYS.get(parts[1], {}) else None


def rename_key_flags(arguments: Sequence[str], config: ConfigDict) -> list[str]:
    """Returns a command line in which each ``--config.SECTION.KEY`` has the name that a config has it under.

    Args:
        arguments: of the command line.
        config: as its file makes it.
    """
    renamed = []
    for argument in arguments:
        if found := find_old_key(argument):
            section, old = found
            keys, new = config.get(section), KEYS[section][old]
            if isinstance(keys, ConfigDict) and new in keys and old not in keys:
                warn(f"--config.{section}.{old}", f"--config.{section}.{new}")
                flag, equals, value = argument.partition("=")
                argument = f"{flag.removesuffix(old)}{new}{equals}{VALUES.get((section, new), {}).get(value, value)}"
        renamed.append(argument)
    return renamed


def rename_saved_keys(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a config that was saved with a run, with the new names of its keys."""
    return {
        section: {new: value for _, new, value in _renamed_items(section, keys)} if isinstance(keys, Mapping) else keys
        for section, keys in config.items()
    }


def rename_config_keys(config: ConfigDict) -> None:
    """Gives the keys of a user's config their new names, in place; prints a warning for each old one."""
    for section in KEYS.keys() & config.keys():
        keys = config[section]
        if not isinstance(keys, ConfigDict):
            continue
        with keys.unlocked():
            for old, new, value in list(_renamed_items(section, keys)):
                if old != new:
                    warn(f"config.{section}.{old}", f"config.{section}.{new}")
                    del keys[old]
                if old != new or keys[new] is not value:
                    keys[new] = value


def warn(old: str, new: str) -> None:
    """Prints that a name is old."""
    print(f"warning: {old} is now {new}; the old name will stop working in the next version", file=sys.stderr)


def _renamed_items(section: str, keys: Mapping[str, Any] | ConfigDict) -> Iterator[tuple[str, str, Any]]:
    """The old name, new name and new value of each key of a section; old names last, so that they win over defaults."""
    names = KEYS.get(section, {})
    for old, value in sorted(keys.items(), key=lambda item: item[0] in names):
        new = names.get(old, old)
        values = VALUES.get((section, new), {})
        yield old, new, values.get(value, value) if isinstance(value, str) else value
