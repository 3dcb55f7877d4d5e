"""Folder leases: lock files that their holder renews, for buckets and for disks without flock.

    the lock file changes every ``RENEWED`` seconds       -> its holder is alive -> a second process is refused
    the lock file has not changed for ``EXPIRED`` seconds -> its holder is gone  -> a second process takes the lease

Only the waiting process measures time, so the clocks of the hosts may differ. If two processes take a lease at the same
time, one wins: a write to a bucket requires the generation that was read, and a write to a disk is read back after
``SETTLED`` seconds.
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
"""Seconds without a renewal after which a lease expires."""

SETTLED = 1.0
"""Seconds after which two processes that wrote a file at the same time read the same content."""

Mark = int | bytes
"""A value that identifies one write of a lease file: an object's generation, or a file's content."""


@runtime_checkable
class LeaseFile(Protocol):
    """The file of a lease."""

    def read(self) -> tuple[bytes, Mark] | None:
        """Returns the content and its mark; None if there is no lease."""

    def write(self, content: bytes, before: Mark | None) -> Mark | None:
        """Writes the file if it still has the mark ``before``. None means that there must be no lease yet.

        Returns:
            The new mark; None if another process has written the file.
        """

    def remove(self, mark: Mark) -> None:
        """Removes the file if it still has this mark."""


class BucketFile:
    """A lease file in a bucket. Its mark is the object's generation.

    Args:
        path: path of the object.
    """

    def __init__(self, path: epath.Path) -> None:
        self._path = path

    def read(self) -> tuple[bytes, Mark] | None:
        """Returns the content and the generation; None if there is no object."""
        try:
            # We read the generation first, so that the content is of this generation or a later one.
            generation = object_info(self._path).generation
            return self._path.read_bytes(), generation
        except FileNotFoundError:
            return None

    def write(self, content: bytes, before: Mark | None) -> Mark | None:
        """Writes the object if its generation is ``before``; see ``LeaseFile``."""
        return write_generation(self._path, content, int(before or 0))

    def remove(self, mark: Mark) -> None:
        """Removes the object if its generation is ``mark``."""
        delete_generation(self._path, int(mark))


class DiskFile:
    """A lease file on a disk. Its mark is its content.

    Args:
        path: path of the file.
    """

    def __init__(self, path: pathlib.Path) -> None:
        self._path = path

    def read(self) -> tuple[bytes, Mark] | None:
        """Returns the content, which is also the mark; None if the file is missing or empty."""
        try:
            content = self._path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        # A process that tried flock has created the file and left it empty.
        return (content, content) if content else None

    def write(self, content: bytes, before: Mark | None) -> Mark | None:
        """Writes the file if its content is ``before``, and checks that the write has won; see ``LeaseFile``."""
        if self._mark() != before:
            return None
        # The name has no process ID, unlike other temporary files: containers on several hosts may share an ID.
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
        """Removes the file if its content is ``mark``."""
        if self._mark() == mark:
            self._path.unlink(missing_ok=True)

    def _mark(self) -> Mark | None:
        found = self.read()
        return None if found is None else found[1]


class Lease:
    """A folder lock that a thread renews; implements ``folder_locks.FolderLock``.

    Args:
        folder: the folder to hold.
        flag: the flag that names the folder, for messages.
        file: the lease file.

    Raises:
        ForNowError: another process holds the folder.
        UserError: the folder is gone.
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
        """Checks that this process still holds the folder.

        Raises:
            UserError: the folder is gone, or another process has it.
        """
        if self._lost is not None:
            raise self._lost

    def release(self) -> None:
        """Stops the renewals and removes the lease file."""
        self._over.set()
        self._thread.join()
        if self._lost is None:
            try:
                self._file.remove(self._mark)
            except Exception as error:
                if not is_refused(error):
                    raise
                # The lease expires by itself.

    def _take(self) -> Mark:
        before = self._wait_until_free()
        mark = self._file.write(self._content(), before)
        if mark is None:
            mark = self._look_again()
        if mark is None:
            raise self._refusal()
        return mark

    def _wait_until_free(self) -> Mark | None:
        """Waits until there is no lease, or its holder has not renewed it for ``EXPIRED`` seconds.

        Returns:
            The mark of the expired lease; None if there is no lease.

        Raises:
            ForNowError: the holder renews the lease.
        """
        found = self._file.read()
        if found is None:
            return None
        first = found[1]
        print(
            f"{self._folder} may be in use: checking for up to {EXPIRED:.0f} s whether its last user still renews "
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
        """Returns the error that explains why this process does not hold the folder."""
        found = self._file.read()
        if found is None:
            return explain_gone(self._folder)
        return explain_held(self._folder, self._flag, read_holder(found[0]))

    def _look_again(self) -> Mark | None:
        """Returns the mark of the lease file if this process wrote it, otherwise None.

        A write may succeed although its reply was lost. Its retry then seems to lose.
        """
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
                # The next renewal may succeed, if no other process takes the lease first.


def is_refused(error: Exception) -> bool:
    """Returns whether an error is a failure of a disk or a bucket."""
    return isinstance(error, OSError) or is_refusal(error)
