"""A reader for files in untrusted zip archives: reads them into memory up to a max size, and never extracts them.

The unpacked size in an archive may be false, or true and huge, as in a zip bomb. The reader detects both.
"""

import zipfile
import zlib

PLAIN = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""The accepted compression methods. Others are rare, and one of them allows a file to request 4 GB of memory."""

DAMAGED_MEMBER = (zipfile.BadZipFile, zlib.error, EOFError, LookupError, NotImplementedError, RuntimeError, ValueError)
"""The errors of ``zipfile`` and of ``read_member`` for a damaged member.

Causes are a wrong checksum, broken data, an unknown compression method or a wrong offset.
"""


def read_member(archive: zipfile.ZipFile, name: str, max_bytes: int) -> bytes:
    """Reads a file of a zip archive.

    Args:
        archive: the opened archive.
        name: name of the file in the archive.
        max_bytes: max unpacked size, in bytes.

    Raises:
        KeyError: the archive has no file of that name.
        ValueError: the file exceeds the max size, is truncated, or uses another compression method than ``PLAIN``.
            Other damage raises any error of ``DAMAGED_MEMBER``.
    """
    info = archive.getinfo(name)
    if info.file_size > max_bytes:
        raise ValueError(f"{name} has {info.file_size} bytes unpacked, more than {max_bytes}")
    if info.compress_type not in PLAIN:
        raise ValueError(f"{name} has an unsupported compression method")
    with archive.open(info) as file:
        # A byte count limits the unpacked size, even if the archive states a false one. The one extra byte makes
        # zipfile verify the checksum.
        content = file.read(info.file_size + 1)
    if len(content) != info.file_size:
        raise ValueError(f"{name} is cut short")
    return content
