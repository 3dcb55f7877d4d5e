"""Classifies errors of disks, networks and buckets: temporary ones can be retried, others need a fix.

an error -> its number or status name -> denied: no retry | passing: the same command can be retried later
"""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

from imagen_jax.errors import ForNowError, UserError

PASSING = {
    errno.EIO, errno.EAGAIN, errno.EBUSY, errno.EINTR, errno.ENOMEM, errno.ESTALE, errno.ETIMEDOUT, errno.ENOLINK,
    errno.EPROTO, errno.ENETDOWN, errno.ENETUNREACH, errno.ENETRESET, errno.ECONNABORTED, errno.ECONNRESET,
    errno.ECONNREFUSED, errno.ENOTCONN, errno.EPIPE, errno.ESHUTDOWN, errno.EHOSTDOWN, errno.EHOSTUNREACH,
}  # fmt: skip
"""Numbers of errors that may go away within a minute. EIO may come from a dying disk or from a network disk."""

DENIED_CODES = {errno.EACCES, errno.EPERM, errno.EROFS}
"""Numbers of errors about missing permissions or a read-only disk."""

WORDS = {os.strerror(code): code for code in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE)}
"""Error numbers by the system's messages. Libraries in C++ and Rust report only the message."""

SHORT_WRITE = re.compile(r"\d+ requested and \d+ written")
"""Matches NumPy's message, without an error number, when a disk accepts only the start of an array."""

DENIED = re.compile(
    r"PERMISSION_DENIED|UNAUTHENTICATED|NOT_FOUND|INVALID_ARGUMENT|Forbidden|Bad Request|[Cc]redentials"
    r"|[Aa]nonymous caller|[Rr]eauth|invalid_grant|, 40[0134]\b"
)
"""Matches messages of tensorstore, gcsfs and Google's login about a wrong name, login or permission."""

STATUS = re.compile(
    r"\b(CANCELLED|UNKNOWN|INVALID_ARGUMENT|DEADLINE_EXCEEDED|NOT_FOUND|ALREADY_EXISTS|PERMISSION_DENIED|UNAUTHENTICATED"
    r"|RESOURCE_EXHAUSTED|FAILED_PRECONDITION|ABORTED|OUT_OF_RANGE|UNIMPLEMENTED|INTERNAL|UNAVAILABLE|DATA_LOSS)\b"
)


def disk_error_code(error: BaseException) -> int | None:
    """Returns the operating system's number of an error; None if there is none.

    tensorstore, ArrayRecord, safetensors and NumPy raise their own errors. Their messages contain the number or the
    system's message.
    """
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    message = str(error)
    if found := re.search(r"os_error_code='(\d+)'", message):
        return int(found[1])
    if isinstance(error, OSError) and SHORT_WRITE.search(message):
        return errno.ENOSPC
    return next((code for words, code in WORDS.items() if words in message), None)


def status_of(error: BaseException) -> str | None:
    """Returns the first status name in an error's message, such as tensorstore's ``NOT_FOUND``; None if none."""
    found = STATUS.search(str(error))
    return found[1] if found else None


def is_denied(error: BaseException) -> bool:
    """Returns whether a name, login or permission is wrong, so that a retry would fail again."""
    if isinstance(error, FileNotFoundError | PermissionError):
        return True
    code = disk_error_code(error)
    if code is not None:
        return code in DENIED_CODES
    return bool(DENIED.search(f"{type(error).__name__}: {error}"))


def is_passing(error: BaseException) -> bool:
    """Returns whether a disk error may go away by itself."""
    return disk_error_code(error) in PASSING


@contextmanager
def explaining_disk(what: str, fix: str) -> Iterator[None]:
    """Converts the block's disk errors, from any library, to a ``UserError`` with one message.

    Other errors pass unchanged, and so does ``BrokenPipeError``.

    Args:
        what: start of the message, such as "the data set can't be written into DATA".
        fix: end of the message: what to do.

    Raises:
        UserError: a disk error occurs in the block, such as a full disk.
        ForNowError: the disk error may go away by itself.
    """
    try:
        yield
    except (UserError, BrokenPipeError):
        raise
    except Exception as error:
        code = disk_error_code(error)
        if code is None and not isinstance(error, OSError):
            raise
        kind = ForNowError if is_passing(error) else UserError
        reason = str(error) if code is None else os.strerror(code)
        raise kind(f"{what} ({reason}): {fix}") from error


def raise_if_denied(error: BaseException, file: object) -> None:
    """Raises a clear error if a file can't be read for lack of permission.

    Readers call it before they report a file as damaged or missing, because an intact file may be unreadable.

    Args:
        error: the error of the read.
        file: the file that was read, for the message.

    Raises:
        UserError: the user has no permission to read the file.
    """
    if isinstance(error, PermissionError) or disk_error_code(error) in (errno.EACCES, errno.EPERM):
        raise UserError(f"you may not read {file}: ask its owner to let you (chmod a+rX), or choose another") from error
