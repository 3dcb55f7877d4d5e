"""Standard input, output and error that are closed, full, or read by nobody: what is printed must not end the work.

| stream | what happens |
|---|---|
| any is closed (``>&-``) | as if it were ``/dev/null`` |
| output or error goes to a program that has left (``head -1``) | the rest is not printed, and the work goes on |
| error goes to a disk that is full | likewise |
| output goes to a disk that is full | an error, for the output may be what was wanted |
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
    """Standard output or standard error, which stays a stream when nobody takes what is written to it.

    Args:
        number: of the stream's file, ``OUTPUT`` or ``ERROR``, which is open.
        encoding: of text; characters that it lacks are written as Python writes them in its source.
    """

    def __init__(self, number: int, encoding: str) -> None:
        file = io.BufferedWriter(io.FileIO(number, "w", closefd=False))
        terminal = os.isatty(number)
        super().__init__(file, encoding, "backslashreplace", line_buffering=terminal or number == ERROR)
        self._number = number

    @property
    def name(self) -> str:
        """As Python calls it."""
        return {OUTPUT: "<stdout>", ERROR: "<stderr>"}[self._number]

    def write(self, text: str) -> int:
        """Writes text; returns its length."""
        self._lasting(lambda: super(ResilientStream, self).write(text))
        return len(text)

    def flush(self) -> None:
        """Hands on what was written."""
        self._lasting(super().flush)

    def _lasting(self, act: Callable[[], Result]) -> None:
        try:
            act()
        except OSError as error:
            # What waits to be written goes nowhere, and all that follows.
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._number)
            os.close(nowhere)
            if self._number == OUTPUT and not isinstance(error, BrokenPipeError):
                raise OSError(error.errno, error.strerror, CALLED[self._number]) from error


def open_closed_streams() -> None:
    """Gives the number of each standard stream that is closed to ``/dev/null``; to be called before a file is opened.

    Else the next file would get it, and what a library prints would be written into that file.
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
    """Replaces the standard streams of this process by ones that last; to be called before anything is printed.

    Streams that were replaced already, as tests do, stay.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        stream = getattr(sys, name)
        if stream is None:
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115, for it stays open
        elif name != "stdin" and stream is getattr(sys, f"__{name}__"):
            stream.flush()
            setattr(sys, name, ResilientStream(number, stream.encoding))
