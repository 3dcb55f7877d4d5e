"""Separates errors of a single image file from errors that affect all files, such as a failing disk or bucket."""

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
"""Error numbers that concern a single file. Others, such as too many open files, affect all following files too."""


def reason_of(error: OSError | ValueError) -> str:
    """Returns why a file can't be read.

    Args:
        error: the error; a ``ValueError`` means that the path contains a null byte.

    Raises:
        OSError: the error itself, if it does not concern a single file.
    """
    if isinstance(error, OSError) and not (isinstance(error, FileNotFoundError) or error.errno in OF_ONE_FILE):
        raise error
    return getattr(error, "strerror", None) or str(error)
