"""Errors caused by user input, and orderly exits. Both print one message and no traceback."""

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

MAX_MESSAGE_LENGTH = 1200
"""Number of characters to keep of a longer message: half from its start, half from its end."""


class UserError(Exception):
    """An error outside the code, such as a wrong flag. Its message says what is wrong and how to fix it.

    The command lines print the message alone and exit with status 2 (see ``runtime/main.py``). A message may quote the
    content of a file, so ``make_printable`` shortens it and escapes control characters and lone surrogates.

    Attributes:
        for_now: whether the cause may go away by itself; see ``ForNowError``.
    """

    for_now = False

    def __init__(self, sentence: object = "") -> None:
        super().__init__(make_printable(str(sentence)))


def make_printable(sentence: str) -> str:
    """Returns the message with unprintable characters escaped, and without its middle if it is too long.

    Unprintable characters include control characters and lone surrogates. Newlines, tabs and spaces stay.
    """
    if len(sentence) > MAX_MESSAGE_LENGTH:
        sentence = f"{sentence[: MAX_MESSAGE_LENGTH // 2]} … {sentence[-MAX_MESSAGE_LENGTH // 2 :]}"
    if sentence.isprintable():
        return sentence
    return "".join(one if one.isprintable() or one in "\n\t " else ascii(one)[1:-1] for one in sentence)


class ForNowError(UserError):
    """A failure that may go away by itself, such as a disk or bucket failure or a folder in use.

    The same command can be retried later. The command lines exit with status 74. After that status
    ``launch/supervise.sh`` runs the command again, with longer and longer waits, and a JobSet restarts the run.
    """

    for_now = True


class LeavingError(Exception):
    """The program received SIGTERM or Ctrl-C and has saved its state. The same command resumes it.

    The command lines print the message and exit with status ``ExitStatus.PREEMPTED``.
    """


class StoppedError(LeavingError):
    """The program received Ctrl-C and has saved its state. No supervisor should run the command again.

    The command lines print the message and exit with status 130.
    """


def nearest_name(name: str, known: Iterable[str]) -> str:
    """Returns a hint for a message about an unknown name.

    The hint is ``"; did you mean 'x'?"`` with the known name nearest to ``name``. If none is near, it is
    ``"; known: …"`` with all known names.
    """
    known = sorted(known)
    close = get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(known)}"


def lookup(table: dict, name: str, what: str):
    """Returns ``table[name]``.

    Raises:
        UserError: ``name`` is not in the table. The message contains ``what``, the kind of name, and the nearest name.
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
        what: the kind of name, for the message, such as ``option of the optimizer 'adam'``.
        elsewhere: our name for each name that other libraries use.

    Raises:
        UserError: a name is unknown. The message gives our name for it, or the nearest known one.
    """
    known = list(known)
    for name in given:
        if name not in known:
            ours = (elsewhere or {}).get(name)
            hint = f"; here it is called {ours!r}" if ours else nearest_name(name, known)
            raise UserError(f"unknown {what} {name!r}{hint}")


def names_its_arguments(function: Callable[P, R]) -> Callable[P, R]:
    """Decorates a public function so that the error for an unknown keyword argument suggests the nearest known one.

    Raises:
        TypeError: the call has an unknown keyword argument. The message also contains the nearest known name.
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
