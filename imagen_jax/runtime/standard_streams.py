"""Resilient standard streams: a closed or broken stream or a full disk does not end a command.

| stream | effect |
|---|---|
| any stream is closed (``>&-``) | it acts like ``/dev/null`` |
| output or error is a pipe to an ended program (``head -1``) | further text is dropped and the command continues |
| error is a file on a full disk | further text is dropped and the command continues |
| output is a file on a full disk | an error, because the output may be the command's result |
"""

import io
import os
import sys
from collections.abc import Callable
from typing import TypeVar

OUTPUT, ERROR = 1, 2
CALLED = {OUTPUT: "standard output", ERROR: "standard error"}

Result = TypeVar("Result")


class ResilientStream(io.TextIOWrapper):
    """Standard output or standard error that remains usable after a failed write.

    Args:
        number: open file descriptor of the stream, ``OUTPUT`` or ``ERROR``.
        encoding: text encoding. Characters that it lacks are written as Python's backslash escapes.

    Raises:
        OSError: a write to standard output fails, except for a broken pipe.
    """

    def __init__(self, number: int, encoding: str) -> None:
        file = io.BufferedWriter(io.FileIO(number, "w", closefd=False))
        terminal = os.isatty(number)
        super().__init__(file, encoding, "backslashreplace", line_buffering=terminal or number == ERROR)
        self._number = number

    @property
    def name(self) -> str:
        """Returns Python's name of the stream, ``<stdout>`` or ``<stderr>``."""
        return {OUTPUT: "<stdout>", ERROR: "<stderr>"}[self._number]

    def write(self, text: str) -> int:
        """Writes text and returns its length."""
        self._lasting(lambda: super(ResilientStream, self).write(text))
        return len(text)

    def flush(self) -> None:
        """Flushes the buffer."""
        self._lasting(super().flush)

    def _lasting(self, act: Callable[[], Result]) -> None:
        try:
            act()
        except OSError as error:
            # Redirects the buffered text and all later writes to /dev/null.
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._number)
            os.close(nowhere)
            if self._number == OUTPUT and not isinstance(error, BrokenPipeError):
                raise OSError(error.errno, error.strerror, CALLED[self._number]) from error


def open_closed_streams() -> None:
    """Opens ``/dev/null`` on the file descriptor of each closed standard stream. Call it before any file is opened.

    Otherwise the next opened file would get that descriptor, and a library's output would be written to that file.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            nowhere = os.open(os.devnull, os.O_RDWR)
            if nowhere != number:
                os.dup2(nowhere, number)
                os.close(nowhere)


def make_streams_resilient() -> None:
    """Replaces the standard streams of this process by resilient ones. Call it before anything is printed.

    Streams that other code has already replaced stay, such as those of tests.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        stream = getattr(sys, name)
        if stream is None:
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115, for it stays open
        elif name != "stdin" and stream is getattr(sys, f"__{name}__"):
            stream.flush()
            setattr(sys, name, ResilientStream(number, stream.encoding))
