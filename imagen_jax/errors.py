"""The error a user can mend, and the ends that are none: one sentence, no traceback."""

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

MAX_MESSAGE_LENGTH = 1200
"""Characters of a sentence."""


class UserError(Exception):
    """A mistake outside the code: its message is one sentence that says what is wrong and what mends it.

    The command lines print the message alone and exit with status 2 (see ``runtime/main.py``). What a file brings into
    it can be printed: it is not endless, and has no characters that command a terminal or that UTF-8 lacks.

    Attributes:
        for_now: whether it may pass by itself; see ``ForNowError``.
    """

    for_now = False

    def __init__(self, sentence: object = "") -> None:
        super().__init__(make_printable(str(sentence)))


def make_printable(sentence: str) -> str:
    """The same with control characters and halves of characters written out, and without the middle of a long one."""
    if len(sentence) > MAX_MESSAGE_LENGTH:
        sentence = f"{sentence[: MAX_MESSAGE_LENGTH // 2]} … {sentence[-MAX_MESSAGE_LENGTH // 2 :]}"
    if sentence.isprintable():
        return sentence
    return "".join(one if one.isprintable() or one in "\n\t " else ascii(one)[1:-1] for one in sentence)


class ForNowError(UserError):
    """A disk or a bucket refuses, or a folder is in use, and a little later it may not be so: the same command goes on.

    The command lines exit with a status of its own, after which ``launch/supervise.sh`` runs the command again, later
    each time, and a JobSet restarts the run.
    """

    for_now = True


class LeavingError(Exception):
    """The program was told to leave, and all that it had done is kept: the same command goes on.

    The command lines print the message and exit with ``ExitStatus.PREEMPTED``.
    """


class StoppedError(LeavingError):
    """Likewise, by somebody who pressed Ctrl-C, and no supervisor is to run the same command again.

    The command lines print the message and exit with status 130.
    """


def nearest_name(name: str, known: Iterable[str]) -> str:
    """Returns ``"; did you mean 'x'?"`` for the known name nearest to ``name``, else the list of all known names."""
    known = sorted(known)
    close = get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(known)}"


def lookup(table: dict, name: str, what: str):
    """Returns ``table[name]``.

    Raises:
        UserError: ``name`` is not in the table; the message names ``what`` was being chosen and the nearest name.
    """
    if name not in table:
        raise UserError(f"unknown {what} {name!r}{nearest_name(name, table)}")
    return table[name]


def check_names(
    given: Iterable[str], known: Iterable[str], what: str, elsewhere: Mapping[str, str] | None = None
) -> None:
    """Checks that every name is known.

    Args:
        given: the names to check.
        known: the names that exist.
        what: a name stands for, in the message: ``option of the optimizer 'adam'``.
        elsewhere: names that other libraries use, and ours for the same thing.

    Raises:
        UserError: a name is unknown; the message gives our name for it, or the nearest known one.
    """
    known = list(known)
    for name in given:
        if name not in known:
            ours = (elsewhere or {}).get(name)
            hint = f"; here it is called {ours!r}" if ours else nearest_name(name, known)
            raise UserError(f"unknown {what} {name!r}{hint}")


def names_its_arguments(function: Callable[P, R]) -> Callable[P, R]:
    """Decorates a function of the Python interface: the error for an unknown argument names the nearest known one.

    Raises:
        TypeError: the function has no argument of that name; as Python raises it, with the nearest name.
    """
    known = [name for name in inspect.signature(function).parameters if name != "self"]

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        for name in kwargs:
            if name not in known:
                where = function.__qualname__.removesuffix(".__init__")
                raise TypeError(f"{where}() has no argument {name!r}{nearest_name(name, known)}")
        return function(*args, **kwargs)

    return checked
