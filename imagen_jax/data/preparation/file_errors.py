"""Why one image's file can't be read, and what is no matter of one file: a disk that fails, a bucket that refuses."""

import errno

OF_ONE_FILE = (
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ENAMETOOLONG,
    errno.EACCES,
    errno.EPERM,
    errno.EINVAL,
    errno.ELOOP,
    errno.EIO,
)
"""Errors that are one file's own. Others, such as too many open files, all files after it would have too."""


def reason_of(error: OSError | ValueError) -> str:
    """Why a file can't be read; a ``ValueError`` is a path with a zero byte.

    Raises:
        OSError: the error itself, where it is not the file's own.
    """
    if isinstance(error, OSError) and not (isinstance(error, FileNotFoundError) or error.errno in OF_ONE_FILE):
        raise error
    return getattr(error, "strerror", None) or str(error)
