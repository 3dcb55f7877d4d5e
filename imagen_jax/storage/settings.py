"""Settings beside what was made with them, so that nothing is continued with others.

settings -> FOLDER/NAME.json -> the same settings, or a sentence with the first that differs
"""

import json
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from imagen_jax.errors import UserError
from imagen_jax.storage.json_text import parse_json, read_json
from imagen_jax.storage.paths import Path, create_folder, write_whole


class Difference(NamedTuple):
    """An entry in which two settings differ.

    Attributes:
        name: of the entry.
        before: its value then; None where it was not there.
        now: its value now; likewise.
    """

    name: str
    before: Any
    now: Any


def first_difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> Difference | None:
    """The first entry that differs, in the order of ``now``; None where none does.

    An entry that is not there is one that is None. Tuples are lists, as JSON has them.
    """
    return next(iter(differences(before, now)), None)


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[Difference]:
    """All entries that differ, as ``first_difference`` compares them."""
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
    mend: str,
    uncompared: Collection[str] = (),
    begun: bool = True,
) -> dict[str, Any]:
    """Writes settings to a file, or checks that they are those of the file that is there.

    Args:
        path: of the file; its folder is made.
        settings: as JSON can hold them.
        what: lies in the folder, for the sentence.
        mend: what to do otherwise, for the sentence.
        uncompared: names of entries that may differ.
        begun: whether anything that was made with the settings in the file is there; else these take their place.

    Returns:
        The settings in the file.

    Raises:
        UserError: the settings there are others (names the first that differs, and both values), or damaged.
        OSError: the file can't be written.
    """
    if not begun or not path.exists():
        create_folder(path.parent)
        write_whole(path, (json.dumps(dict(settings), indent=2, ensure_ascii=False) + "\n").encode())
        return dict(settings)
    try:
        before = read_json(path)
        if not isinstance(before, dict):
            raise ValueError(f"{before!r} is no set of settings")
    except ValueError:
        raise UserError(f"{path}, which says what the {what} there are, is damaged: {mend}") from None
    compared = ({name: one[name] for name in one if name not in uncompared} for one in (before, settings))
    different = first_difference(*compared)
    if different is not None:
        raise UserError(
            f"{path.parent} holds {what} with {different.name} {different.before!r}, and this run has "
            f"{different.now!r}: {mend}"
        )
    return before
