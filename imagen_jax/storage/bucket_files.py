"""gcsfs's file system, with files that release their buffers when an upload fails.

gcsfs uploads a view of a file's buffer. The traceback of a failed upload keeps this view, in a reference cycle with the
buffer. When Python 3.13 or later collects a buffer before its view, it prints a ``BufferError`` to standard error.
"""

import traceback
from collections.abc import Callable
from functools import wraps
from typing import Any

from gcsfs import GCSFileSystem


class BucketFileSystem(GCSFileSystem):
    """gcsfs's file system. ``open_bucket_path`` registers it with fsspec."""

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        file = super()._open(path, mode, **options)
        if mode != "rb":
            file.flush = clear_frames_on_error(file.flush)
        return file


def clear_frames_on_error(upload: Callable[..., None]) -> Callable[..., None]:
    """Wraps a function so that the traceback of its error keeps no local variables."""

    @wraps(upload)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        try:
            upload(*args, **kwargs)
        except BaseException as error:
            traceback.clear_frames(error.__traceback__)
            raise

    return wrapped
