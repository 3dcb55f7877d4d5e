"""Which refusals of a disk, a network or a bucket pass by themselves, and which ones somebody has to mend.

an error -> its number or the name of its status -> denied: nobody asks again | passing: the same command, later
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
"""Numbers of errors that a disk may give now and not a minute later. EIO may be a disk that dies, or a network's."""

DENIED_CODES = {errno.EACCES, errno.EPERM, errno.EROFS}
"""Numbers of errors that say: not you, or not here."""

WORDS = {os.strerror(code): code for code in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE)}
"""How the system names errors of a disk, to their numbers. Libraries in C++ and Rust give the words alone."""

SHORT_WRITE = re.compile(r"\d+ requested and \d+ written")
"""What NumPy says, without a number, where a disk takes only the beginning of an array."""

DENIED = re.compile(
    r"PERMISSION_DENIED|UNAUTHENTICATED|NOT_FOUND|INVALID_ARGUMENT|Forbidden|Bad Request|[Cc]redentials"
    r"|[Aa]nonymous caller|[Rr]eauth|invalid_grant|, 40[0134]\b"
)
"""How tensorstore, gcsfs and Google's login say that a name, a login or a right is wrong."""

STATUS = re.compile(
    r"\b(CANCELLED|UNKNOWN|INVALID_ARGUMENT|DEADLINE_EXCEEDED|NOT_FOUND|ALREADY_EXISTS|PERMISSION_DENIED|UNAUTHENTICATED"
    r"|RESOURCE_EXHAUSTED|FAILED_PRECONDITION|ABORTED|OUT_OF_RANGE|UNIMPLEMENTED|INTERNAL|UNAVAILABLE|DATA_LOSS)\b"
)


def disk_error_code(error: BaseException) -> int | None:
    """The operating system's number of an error; None where there is none.

    Libraries raise their own errors, with the number or the system's words in the message: tensorstore, ArrayRecord,
    safetensors, NumPy.
    """
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    message = str(error)
    if told := re.search(r"os_error_code='(\d+)'", message):
        return int(told[1])
    if isinstance(error, OSError) and SHORT_WRITE.search(message):
        return errno.ENOSPC
    return next((code for words, code in WORDS.items() if words in message), None)


def status_of(error: BaseException) -> str | None:
    """The first name of a status in what an error says, as tensorstore has them; None where there is none."""
    told = STATUS.search(str(error))
    return told[1] if told else None


def is_denied(error: BaseException) -> bool:
    """Whether a name, a login or a right is wrong, so that the same command is refused again."""
    if isinstance(error, FileNotFoundError | PermissionError):
        return True
    code = disk_error_code(error)
    if code is not None:
        return code in DENIED_CODES
    return bool(DENIED.search(f"{type(error).__name__}: {error}"))


def is_passing(error: BaseException) -> bool:
    """Whether a disk's refusal may pass by itself."""
    return disk_error_code(error) in PASSING


@contextmanager
def explaining_disk(what: str, mend: str) -> Iterator[None]:
    """Turns what a disk refuses while the block runs into one sentence, whichever library was writing.

    Args:
        what: the sentence's beginning, such as "the data set can't be written into DATA".
        mend: its end, what the user can do.

    Raises:
        UserError: the disk refuses, such as when it is full.
        ForNowError: it refuses in a way that may pass by itself.
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
        raise kind(f"{what} ({reason}): {mend}") from error


def raise_if_denied(error: BaseException, place: object) -> None:
    """For readers that would call a file damaged or missing: it may be whole, and not theirs to read.

    Args:
        error: what reading ended with.
        place: what was read, for the sentence.

    Raises:
        UserError: the error says that this user may not read it.
    """
    if isinstance(error, PermissionError) or disk_error_code(error) in (errno.EACCES, errno.EPERM):
        raise UserError(
            f"you may not read {place}: ask its owner to let you (chmod a+rX), or choose another"
        ) from error
