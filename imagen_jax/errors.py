"""The error a user can mend, and the ends that are none: one sentence, no traceback."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """A mistake outside the code: its message is one sentence that says what is wrong and what mends it.

    The command lines print the message alone and exit with status 2 (see ``command_line.py``).
    """


class LeavingError(Exception):
    """The program was told to leave, and all that it had done is kept: the same command goes on.

    The command lines print the message and exit with ``preemption.AGAIN``.
    """


def nearest_name(name: str, known: Iterable[str]) -> str:
    """Returns ``"; did you mean 'x'?"`` for the known name nearest to ``name``, else the list of all known names."""
    known = sorted(known)
    close = get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(known)}"


def choose(table: dict, name: str, what: str):
    """Returns ``table[name]``.

    Raises:
        UserError: ``name`` is not in the table; the message names ``what`` was being chosen and the nearest name.
    """
    if name not in table:
        raise UserError(f"unknown {what} {name!r}{nearest_name(name, table)}")
    return table[name]
