"""Settings files, which prevent a run from continuing a folder's files with different settings.

settings -> FOLDER/NAME.json -> a later run: the same settings, or an error about the first difference
"""

import json
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

from imagen_jax.errors import UserError
from imagen_jax.storage.json_text import parse_json, read_json
from imagen_jax.storage.paths import Path, create_folder, write_whole


class Difference(NamedTuple):
    """A difference between two sets of settings.

    Attributes:
        name: name of the entry.
        before: value in the old settings; None if the entry is missing there.
        now: value in the new settings; None if the entry is missing there.
    """

    name: str
    before: Any
    now: Any


def first_difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> Difference | None:
    """Returns the first entry that differs, in the order of ``now``; None if all are equal.

    A missing entry equals None, and a tuple equals a list of the same values, as in JSON.
    """
    return next(iter(differences(before, now)), None)


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[Difference]:
    """Returns all entries that differ: those of ``now`` in their order, then those that only ``before`` contains.

    A missing entry equals None, and a tuple equals a list of the same values, as in JSON.
    """
    before, now = (parse_json(json.dumps(dict(one))) for one in (before, now))
    return [
        Difference(name, before.get(name), now.get(name))
        for name in {**now, **before}
        if before.get(name) != now.get(name)
    ]


def keep_settings(
    path: Path,
    settings: Mapping[str, Any],
    what: str,
    fix: str,
    uncompared: Collection[str] = (),
    begun: bool = True,
    update: Callable[[dict[str, Any]], Mapping[str, Any]] = dict,
) -> dict[str, Any]:
    """Writes settings to a file, or checks that an existing file contains the same settings.

    Args:
        path: path of the file. Its folder is created.
        settings: JSON-serialisable settings.
        what: content of the folder, for the message, such as ``features``.
        fix: what to do, for the message.
        uncompared: names of entries that may differ.
        begun: whether files made with the existing settings are present. If not, the new settings replace the old ones.
        update: converts existing settings of an earlier version for the comparison.

    Returns:
        The settings in the file.

    Raises:
        UserError: the existing settings differ or are damaged. The message contains the first difference.
        OSError: the file can't be read or written.
    """
    if not begun or not path.exists():
        create_folder(path.parent)
        write_whole(path, (json.dumps(dict(settings), indent=2, ensure_ascii=False) + "\n").encode())
        return dict(settings)
    try:
        before = read_json(path)
        if not isinstance(before, dict):
            raise ValueError(f"{before!r} is not a set of settings")
    except ValueError:
        raise UserError(f"{path}, which has the settings of the {what} there, is damaged: {fix}") from None
    compared = ({name: one[name] for name in one if name not in uncompared} for one in (update(before), settings))
    different = first_difference(*compared)
    if different is not None:
        raise UserError(
            f"{path.parent} contains {what} with {different.name} {different.before!r}, and this run has "
            f"{different.now!r}: {fix}"
        )
    return before
