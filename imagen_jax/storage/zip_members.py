"""Files in zips that nobody checked: read whole, never extracted, and no further than they may be large.

A zip says how large a file in it is when it is unpacked; that may be a lie, or true of a bomb. Both are noticed.
"""

import zipfile
import zlib

PLAIN = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""Other ways to compress are rare, and one of them lets a file ask for 4 GB to unpack it."""

DAMAGED_MEMBER = (zipfile.BadZipFile, zlib.error, EOFError, LookupError, NotImplementedError, RuntimeError, ValueError)
"""What ``zipfile`` raises of one member: a wrong checksum, broken data, an unknown compression, a wrong offset."""


def read_member(archive: zipfile.ZipFile, name: str, most: int) -> bytes:
    """A file of a zip.

    Args:
        archive: the zip, open.
        name: of the file.
        most: bytes that it may have.

    Raises:
        KeyError: there is none of that name.
        ValueError: it is larger, or compressed in a way that is not known; see ``DAMAGED_MEMBER`` for damage.
    """
    info = archive.getinfo(name)
    if info.file_size > most:
        raise ValueError(f"{name} has {info.file_size} bytes unpacked, more than {most}")
    if info.compress_type not in PLAIN:
        raise ValueError(f"{name} is compressed in a way that is not known")
    with archive.open(info) as file:
        # With a number it unpacks no more than that, whatever the size in the zip; one more, and the checksum is looked
        # at too.
        content = file.read(info.file_size + 1)
    if len(content) != info.file_size:
        raise ValueError(f"{name} is cut short")
    return content
