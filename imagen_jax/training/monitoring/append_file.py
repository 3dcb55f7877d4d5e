"""Appends lines to a file during a run. A full disk or an unreachable bucket only delays them.

    a line -> queue -> the file, or a bucket's object; a write error prints a warning, and the lines stay queued

A run must not end because its own log can't be written.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from imagen_jax.storage.buckets import is_refusal, summarise_error
from imagen_jax.storage.paths import Path, in_bucket, write_whole

SECONDS_BETWEEN_UPLOADS = 30.0


class AppendFile:
    """Appends lines to a file on a disk.

    Args:
        path: path of the file.

    Raises:
        OSError: the file can't be opened.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._waiting = b""
        self._refused = False
        self._open()

    def write(self, line: str) -> None:
        """Queues a line; ``flush`` writes it."""
        self._waiting += line.encode()

    def flush(self) -> None:
        """Writes the queued lines: to a disk at once, to a bucket soon."""
        self._attempt()

    def upload(self) -> None:
        """Writes the queued lines at once, to a disk or to a bucket."""
        self._attempt()

    def close(self) -> None:
        """Writes the queued lines, or warns that they are lost, and closes the file."""
        self._attempt()
        if self._waiting:
            lost = self._waiting.count(b"\n")
            print_line(f"warning: {lost} line(s) of {self._path} are lost")
        self._shut()

    def _open(self) -> None:
        # Unbuffered, so that the number of bytes written is known: the rest of a line follows when there is room.
        self._file = self._path.open("ab", buffering=0)

    def _shut(self) -> None:
        self._file.close()

    def _put(self) -> None:
        """Writes the queued lines, or as many bytes as there is room for."""
        while self._waiting:
            self._waiting = self._waiting[self._file.write(self._waiting) :]

    def _attempt(self) -> None:
        before, self._refused = self._refused, True
        with warn_on_write_error(str(self._path), silent=before):
            self._put()
            self._refused = False
        if before and not self._refused:
            print_line(f"{self._path} can be written again; no lines are missing")


class BucketAppendFile(AppendFile):
    """Appends lines to an object in a bucket, by rewriting the whole object.

    It does so at most every ``SECONDS_BETWEEN_UPLOADS``, on ``upload``, and when closed.
    """

    def _open(self) -> None:
        self._written = self._path.read_bytes() if self._path.exists() else b""
        self._next_upload = time.monotonic()

    def flush(self) -> None:
        """Uploads if the last upload was at least ``SECONDS_BETWEEN_UPLOADS`` ago."""
        if time.monotonic() >= self._next_upload:
            self.upload()

    def _shut(self) -> None:
        """Does nothing: no file is open."""

    def _put(self) -> None:
        if self._waiting:
            self._next_upload = time.monotonic() + SECONDS_BETWEEN_UPLOADS
            whole = self._written + self._waiting
            write_whole(self._path, whole)
            self._written, self._waiting = whole, b""


def open_append_file(path: Path) -> AppendFile:
    """Opens a file on a disk or in a bucket, to append lines to it."""
    return BucketAppendFile(path) if in_bucket(path) else AppendFile(path)


@contextmanager
def warn_on_write_error(what: str, silent: bool = False) -> Iterator[None]:
    """Turns a write error of a disk or a bucket in the block into a warning; other errors propagate.

    Args:
        what: name of the output, for the warning.
        silent: whether to omit the warning, because it was printed before.
    """
    try:
        yield
    except Exception as error:
        if not isinstance(error, OSError) and not is_refusal(error):
            raise
        if not silent:
            print_line(f"warning: {what} can't be written ({summarise_error(error)}): training continues")


def print_line(sentence: str) -> None:
    """Prints a line on standard error; ignores an ``OSError``, as when that is a file on a full disk."""
    with suppress(OSError):
        print(sentence, file=sys.stderr, flush=True)
