"""Folder locks: one writer at a time. A second writer gets an error that names the first.

    a folder on a local or network disk -> ``.lock`` in it, locked with flock; the system unlocks it when the process
                                           ends for any reason
    a bucket, or a disk without flock   -> ``.lock`` is a lease (``leases``): renewed every few seconds, and free after
                                           a while without renewals

The writer also notices if the folder is deleted, moved or replaced, because its ``.lock`` is then missing. A normal
exit removes ``.lock``.
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
"""Max seconds to wait for worker processes that share the lock and outlive the process that took it."""

SECONDS_BETWEEN_TRIES = 0.2

NO_FLOCK = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}
"""Error numbers of disks without flock."""


@runtime_checkable
class FolderLock(Protocol):
    """A lock on a folder that only this process writes to."""

    def check(self) -> None:
        """Checks that this process still holds the folder.

        Raises:
            UserError: the folder was deleted, moved or replaced, or another process has it.
        """

    def release(self) -> None:
        """Releases the folder for other processes."""


@contextmanager
def locked(folder: Path, flag: str) -> Iterator[FolderLock]:
    """Holds an existing folder while the block runs, so that no other process writes to it.

    Args:
        folder: local folder, or folder in a bucket.
        flag: the flag that names the folder, for messages.

    Raises:
        ForNowError: another process holds the folder.
        UserError: the folder was deleted, moved or replaced while the block ran.
        OSError: the folder can't be written to.
    """
    lock = take(folder, flag)
    try:
        yield lock
        lock.check()
    except Exception:
        # If the folder is gone, that is the cause of the block's error and the better message.
        lock.check()
        raise
    finally:
        lock.release()


def take(folder: Path, flag: str) -> FolderLock:
    """Locks a folder with flock, or with a lease in a bucket and on a disk without flock.

    Raises:
        ForNowError: another process holds the folder.
        OSError: the folder can't be written to.
    """
    if isinstance(folder, epath.Path):
        return Lease(folder, flag, BucketFile(folder / LOCK))
    try:
        return DiskLock(folder, flag)
    except OSError as error:
        if error.errno not in NO_FLOCK:
            raise
    return Lease(folder, flag, DiskFile(folder / LOCK))


class DiskLock:
    """A folder on a disk, locked with flock; implements ``FolderLock``.

    Args:
        folder: existing folder.
        flag: the flag that names the folder, for messages.

    Raises:
        ForNowError: another process holds the folder.
        OSError: the folder can't be written to, or its disk has no flock.
    """

    def __init__(self, folder: pathlib.Path, flag: str) -> None:
        self._folder, self._flag = folder, flag
        self._file = take_file(folder, flag)
        # We keep the folder open, so that no other folder can get its inode number.
        self._opened = os.open(folder, os.O_RDONLY)

    def check(self) -> None:
        """Checks that this process still holds the folder. Recreates ``.lock`` if only that file was removed.

        Raises:
            UserError: the folder was deleted, moved or replaced, or another process has it.
        """
        if is_same(self._folder / LOCK, self._file):
            return
        if not is_same(self._folder, self._opened):
            raise explain_gone(self._folder)
        # Only the lock file was removed, not the folder.
        before, self._file = self._file, take_file(self._folder, self._flag)
        os.close(before)

    def release(self) -> None:
        """Removes ``.lock`` and releases the folder."""
        if is_same(self._folder / LOCK, self._file):
            with suppress(OSError):
                (self._folder / LOCK).unlink()
        os.close(self._file)
        os.close(self._opened)


def take_file(folder: pathlib.Path, flag: str) -> int:
    """Opens and locks the lock file of a folder, and writes a description of this process into it.

    Returns:
        The descriptor of the opened file.

    Raises:
        ForNowError: another process still holds the lock after ``SECONDS_TO_HAND_OVER``.
        OSError: the folder can't be written to, or its disk has no flock.
    """
    deadline = time.monotonic() + SECONDS_TO_HAND_OVER
    while True:
        file = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The previous holder may have removed this file after we opened it. Then we try again with a new one.
            if is_same(folder / LOCK, file):
                os.ftruncate(file, 0)
                with suppress(OSError):
                    # On a full disk the lock still works, without the description of its holder.
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
    """Returns whether a path still leads to the opened file or folder; True if the disk does not answer."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(opened))
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        # A disk error is no evidence that the folder is gone.
        return True
