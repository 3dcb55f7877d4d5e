"""Lines that are added to a file while a run goes on; a disk that is full, or a bucket that is away, costs none.

    a line -> waiting -> the file, or a bucket's object; what is refused waits until it can be written, and that is told

A run must not end for want of room for what it says of itself.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from imagen_jax.storage.buckets import is_refusal, summarise_error
from imagen_jax.storage.paths import Path, in_bucket, write_whole

SECONDS_BETWEEN_UPLOADS = 30.0


class AppendFile:
    """Adds lines to a file of a disk.

    Args:
        path: of the file.

    Raises:
        OSError: it can't be opened.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._waiting = b""
        self._refused = False
        self._open()

    def write(self, line: str) -> None:
        """Adds a line; ``flush`` writes it."""
        self._waiting += line.encode()

    def flush(self) -> None:
        """Writes what waits: at once to a disk, soon to a bucket."""
        self._attempt()

    def upload(self) -> None:
        """Writes what waits now, wherever to."""
        self._attempt()

    def close(self) -> None:
        """Writes what waits, or says that it is lost."""
        self._attempt()
        if self._waiting:
            lost = self._waiting.count(b"\n")
            print_line(f"warning: {lost} line(s) of {self._path} are lost")
        self._shut()

    def _open(self) -> None:
        # Without a buffer, so that what was written is known: the rest of a line follows when there is room.
        self._file = self._path.open("ab", buffering=0)

    def _shut(self) -> None:
        self._file.close()

    def _put(self) -> None:
        """Writes what waits, or as much of it as there is room for."""
        while self._waiting:
            self._waiting = self._waiting[self._file.write(self._waiting) :]

    def _attempt(self) -> None:
        before, self._refused = self._refused, True
        with warn_on_write_error(str(self._path), silent=before):
            self._put()
            self._refused = False
        if before and not self._refused:
            print_line(f"{self._path} can be written to again; nothing is missing")


class BucketAppendFile(AppendFile):
    """The lines of an object in a bucket, which can't be lengthened: the whole of it is written again.

    That is every ``SECONDS_BETWEEN_UPLOADS`` at most, on ``upload`` and at the end.
    """

    def _open(self) -> None:
        self._written = self._path.read_bytes() if self._path.exists() else b""
        self._next_upload = time.monotonic()

    def flush(self) -> None:
        """Uploads if the last time is long ago."""
        if time.monotonic() >= self._next_upload:
            self.upload()

    def _shut(self) -> None:
        """There is nothing open."""

    def _put(self) -> None:
        if self._waiting:
            self._next_upload = time.monotonic() + SECONDS_BETWEEN_UPLOADS
            whole = self._written + self._waiting
            write_whole(self._path, whole)
            self._written, self._waiting = whole, b""


def open_append_file(path: Path) -> AppendFile:
    """Opens a file, of a disk or a bucket, to add lines to."""
    return BucketAppendFile(path) if in_bucket(path) else AppendFile(path)


@contextmanager
def warn_on_write_error(what: str, silent: bool = False) -> Iterator[None]:
    """Within the block a disk's or a bucket's refusal is told and ends the block alone; other errors are errors.

    Args:
        what: is written.
        silent: whether it was told already.
    """
    try:
        yield
    except Exception as error:
        if not isinstance(error, OSError) and not is_refusal(error):
            raise
        if not silent:
            print_line(f"warning: {what} can't be written ({summarise_error(error)}): training goes on")


def print_line(sentence: str) -> None:
    """Prints a line on standard error; where that is a file that there is no room for, nobody is told."""
    with suppress(OSError):
        print(sentence, file=sys.stderr, flush=True)
