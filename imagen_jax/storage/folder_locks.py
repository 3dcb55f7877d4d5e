"""One writer in a folder: who comes second is told who writes there, and who is gone leaves no lock behind.

    a folder of this machine or of a network's disk -> ``.lock`` in it, locked by the system (flock), which frees it
                                                       when the process ends, however it ends
    a bucket, and a disk without flock              -> ``.lock`` is a lease (``leases``): renewed every few seconds, and
                                                       free when it has not been renewed for long

The writer also sees when the folder was deleted, moved or replaced, for its ``.lock`` is no longer there. An orderly
end removes the file.
"""

import errno
import fcntl
import json
import os
import pathlib
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Protocol, runtime_checkable

from etils import epath

from imagen_jax.storage.holders import LOCK, describe_holder, explain_gone, explain_held, read_holder
from imagen_jax.storage.leases import BucketFile, DiskFile, Lease
from imagen_jax.storage.paths import Path

SECONDS_TO_HAND_OVER = 3.0
"""How long workers may outlive the process that held the lock with them."""

SECONDS_BETWEEN_TRIES = 0.2

NO_FLOCK = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}
"""What disks without flock say."""


@runtime_checkable
class FolderLock(Protocol):
    """A folder that this process alone writes in."""

    def check(self) -> None:
        """Checks that it still is.

        Raises:
            UserError: the folder was deleted, moved or replaced, or another process has it.
        """

    def release(self) -> None:
        """Leaves it to others."""


@contextmanager
def locked(folder: Path, flag: str) -> Iterator[FolderLock]:
    """Keeps other writers out of a folder, which is there, while the block runs.

    Args:
        folder: of this machine or in a bucket.
        flag: that names it, for the sentences.

    Raises:
        ForNowError: another process writes there.
        UserError: the folder was deleted, moved or replaced meanwhile.
        OSError: it can't be written to.
    """
    lock = take(folder, flag)
    try:
        yield lock
        lock.check()
    except Exception:
        # Whatever went wrong: where the folder is gone, that is the reason.
        lock.check()
        raise
    finally:
        lock.release()


def take(folder: Path, flag: str) -> FolderLock:
    """Takes a folder; see ``locked``."""
    if isinstance(folder, epath.Path):
        return Lease(folder, flag, BucketFile(folder / LOCK))
    try:
        return DiskLock(folder, flag)
    except OSError as error:
        if error.errno not in NO_FLOCK:
            raise
    return Lease(folder, flag, DiskFile(folder / LOCK))


class DiskLock:
    """A folder of a disk, locked by the system.

    Args:
        folder: see ``locked``.
        flag: likewise.

    Raises:
        ForNowError: likewise.
        OSError: the folder can't be written to, or its disk has no flock.
    """

    def __init__(self, folder: pathlib.Path, flag: str) -> None:
        self._folder, self._flag = folder, flag
        self._file = take_file(folder, flag)
        # Open, so that no other folder can get its number.
        self._opened = os.open(folder, os.O_RDONLY)

    def check(self) -> None:
        """See ``FolderLock``."""
        if is_same(self._folder / LOCK, self._file):
            return
        if not is_same(self._folder, self._opened):
            raise explain_gone(self._folder)
        # Somebody removed the file alone.
        before, self._file = self._file, take_file(self._folder, self._flag)
        os.close(before)

    def release(self) -> None:
        """See ``FolderLock``."""
        if is_same(self._folder / LOCK, self._file):
            with suppress(OSError):
                (self._folder / LOCK).unlink()
        os.close(self._file)
        os.close(self._opened)


def take_file(folder: pathlib.Path, flag: str) -> int:
    """Opens and locks the file of a folder, and writes into it who has it."""
    deadline = time.monotonic() + SECONDS_TO_HAND_OVER
    while True:
        file = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Who had it before removes it.
            if is_same(folder / LOCK, file):
                os.ftruncate(file, 0)
                with suppress(OSError):
                    # On a full disk nobody is told who has it.
                    os.pwrite(file, json.dumps(describe_holder()).encode(), 0)
                return file
        except BlockingIOError:
            if time.monotonic() > deadline:
                holder = read_holder(os.pread(file, 2**16, 0))
                os.close(file)
                raise explain_held(folder, flag, holder) from None
            time.sleep(SECONDS_BETWEEN_TRIES)
        except BaseException:
            os.close(file)
            raise
        os.close(file)


def is_same(path: pathlib.Path, opened: int) -> bool:
    """Whether a path still leads to what was opened there."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(opened))
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        # A disk that does not answer now says nothing of the folder.
        return True
