"""A folder held by a file that is renewed: for buckets, and for disks that can lock nothing.

    a file that says who has the folder, and changes every ``RENEWED`` -> whoever comes second sees it change: refused
    a file that has not changed for ``EXPIRED``                        -> its holder is gone: taken over

Only the clock of whoever waits counts, so clocks of hosts may differ. Of two that take it at once one wins: a bucket
writes only over the generation that was read, and on a disk what was written is read again a moment later.
"""

import json
import os
import pathlib
import secrets
import sys
import threading
import time
from typing import Protocol, runtime_checkable

from etils import epath

from imagen_jax.errors import UserError
from imagen_jax.storage.buckets import delete_generation, is_refusal, object_info, write_generation
from imagen_jax.storage.holders import LOCK, describe_holder, explain_gone, explain_held, read_holder
from imagen_jax.storage.paths import Path

RENEWED = 5.0
"""Seconds between two renewals."""

EXPIRED = 30.0
"""Seconds without a renewal, after which the holder is gone."""

SETTLED = 1.0
"""Seconds after which two that write a file at once see the same in it."""

Mark = int | bytes
"""What tells one writing of a file from the next."""


@runtime_checkable
class LeaseFile(Protocol):
    """The file of a lease."""

    def read(self) -> tuple[bytes, Mark] | None:
        """What is in it, and its mark; None where it is not there."""

    def write(self, content: bytes, before: Mark | None) -> Mark | None:
        """Writes over what has a mark, or where nothing is; the new mark, or None where another was faster."""

    def remove(self, mark: Mark) -> None:
        """Removes what has a mark."""


class BucketFile:
    """An object; its generation is the mark.

    Args:
        path: of the object.
    """

    def __init__(self, path: epath.Path) -> None:
        self._path = path

    def read(self) -> tuple[bytes, Mark] | None:
        """See ``LeaseFile``."""
        try:
            # First, so that what is read is of this generation or a later one.
            generation = object_info(self._path).generation
            return self._path.read_bytes(), generation
        except FileNotFoundError:
            return None

    def write(self, content: bytes, before: Mark | None) -> Mark | None:
        """See ``LeaseFile``."""
        return write_generation(self._path, content, int(before or 0))

    def remove(self, mark: Mark) -> None:
        """See ``LeaseFile``."""
        delete_generation(self._path, int(mark))


class DiskFile:
    """A file; what is in it is the mark.

    Args:
        path: of the file.
    """

    def __init__(self, path: pathlib.Path) -> None:
        self._path = path

    def read(self) -> tuple[bytes, Mark] | None:
        """See ``LeaseFile``."""
        try:
            content = self._path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        # Whoever tried to lock it has made it, and left it empty.
        return (content, content) if content else None

    def write(self, content: bytes, before: Mark | None) -> Mark | None:
        """See ``LeaseFile``."""
        if self._mark() != before:
            return None
        # Not named for the process, as other files are: in containers on several hosts all may have the same number.
        unfinished = self._path.with_name(f".{secrets.token_hex(8)}.unfinished{LOCK}")
        try:
            unfinished.write_bytes(content)
            os.replace(unfinished, self._path)
        except FileNotFoundError:
            return None
        except OSError:
            unfinished.unlink(missing_ok=True)
            raise
        if before is None or read_holder(bytes(before)).get("token") != read_holder(content).get("token"):
            time.sleep(SETTLED)
        return content if self._mark() == content else None

    def remove(self, mark: Mark) -> None:
        """See ``LeaseFile``."""
        if self._mark() == mark:
            self._path.unlink(missing_ok=True)

    def _mark(self) -> Mark | None:
        found = self.read()
        return None if found is None else found[1]


class Lease:
    """A folder held by a lease; see ``folder_locks.FolderLock``.

    Args:
        folder: that is held.
        flag: that names it, for the sentences.
        file: of the lease.

    Raises:
        ForNowError: another process holds it.
    """

    def __init__(self, folder: Path, flag: str, file: LeaseFile) -> None:
        self._folder, self._flag, self._file = folder, flag, file
        self._holder = describe_holder()
        self._beat = 0
        self._lost: UserError | None = None
        self._over = threading.Event()
        self._mark = self._take()
        self._thread = threading.Thread(target=self._renew, name=f"holds {folder}", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """See ``FolderLock``."""
        if self._lost is not None:
            raise self._lost

    def release(self) -> None:
        """See ``FolderLock``."""
        self._over.set()
        self._thread.join()
        if self._lost is None:
            try:
                self._file.remove(self._mark)
            except Exception as error:
                if not is_refused(error):
                    raise
                # It expires.

    def _take(self) -> Mark:
        before = self._wait_until_free()
        mark = self._file.write(self._content(), before)
        if mark is None:
            mark = self._look_again()
        if mark is None:
            raise self._refusal()
        return mark

    def _wait_until_free(self) -> Mark | None:
        """The mark of what is to be written over; None where nothing is there."""
        found = self._file.read()
        if found is None:
            return None
        first = found[1]
        print(
            f"{self._folder} may be in use: looking for up to {EXPIRED:.0f} s whether its last user still renews "
            f"{self._folder / LOCK}",
            file=sys.stderr,
            flush=True,
        )
        deadline = time.monotonic() + EXPIRED
        while time.monotonic() < deadline:
            time.sleep(min(RENEWED / 5, EXPIRED / 5))
            found = self._file.read()
            if found is None:
                return None
            if found[1] != first:
                raise explain_held(self._folder, self._flag, read_holder(found[0]))
        return first

    def _refusal(self) -> UserError:
        """Why the folder is not ours."""
        found = self._file.read()
        if found is None:
            return explain_gone(self._folder)
        return explain_held(self._folder, self._flag, read_holder(found[0]))

    def _look_again(self) -> Mark | None:
        """The mark of our own writing, where its answer was lost and it was tried again; else None."""
        found = self._file.read()
        if found is None or read_holder(found[0]).get("token") != self._holder["token"]:
            return None
        return found[1]

    def _content(self) -> bytes:
        self._beat += 1
        return json.dumps({**self._holder, "renewed": self._beat}).encode()

    def _renew(self) -> None:
        while not self._over.wait(RENEWED):
            try:
                mark = self._file.write(self._content(), self._mark) or self._look_again()
                if mark is None:
                    self._lost = self._refusal()
                    return
                self._mark = mark
            except Exception as error:
                if not is_refused(error):
                    raise
                # The next time, as long as nobody else takes it.


def is_refused(error: Exception) -> bool:
    """Whether a disk or a bucket does not answer as it should."""
    return isinstance(error, OSError) or is_refusal(error)
