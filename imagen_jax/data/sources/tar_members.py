"""Reads the files of a tar one after another: detects damage, and decompresses gzip.

stream -> gzip decompressed, bombs rejected -> headers checked -> ``Member``: key, ending, size, content on demand
"""

import gzip
import io
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

from imagen_jax.storage.names import is_of_system

MAX_HEADER_BYTES = 2**20
"""Max bytes of an extended header of a member, such as a long name, which tarfile reads completely."""

MAX_SIZE = 2**42
"""Max bytes of any member: a header with a larger size is damaged, and no disk can seek that far."""

HEADERS_OF_HEADERS = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)


GZIP = b"\x1f\x8b"

OTHER_FORMATS = {b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zstd", b"PK\x03\x04": "zip"}
"""Names of unsupported compression formats, by the first bytes of a file."""

MAX_UNPACKED_RATIO = 100
"""Max uncompressed bytes per byte of gzip, beyond the first 64 MiB: images hardly shrink, and bombs a thousandfold."""


class FormatError(Exception):
    """Raised if a file has an unsupported compression format; the message names it."""


class Unpacked(io.RawIOBase):
    """The content of a gzip file, read forwards only and up to a max size.

    Args:
        packed: the seekable gzip file.
    """

    def __init__(self, packed: Any) -> None:
        size = packed.seek(0, io.SEEK_END)
        packed.seek(0)
        self._file = gzip.GzipFile(fileobj=packed)
        self._max_bytes = 2**26 + MAX_UNPACKED_RATIO * size

    def tell(self) -> int:
        """Returns the number of bytes read so far."""
        return self._file.tell()

    def read(self, size: int = -1) -> bytes:
        """Reads the next bytes.

        Raises:
            tarfile.ReadError: it is not a complete gzip file, or a bomb.
        """
        try:
            content = self._file.read(size)
        except (OSError, EOFError, zlib.error) as error:
            if isinstance(error, OSError) and not isinstance(error, gzip.BadGzipFile):
                raise
            raise tarfile.ReadError(f"gzip: {error}") from error
        if self.tell() > self._max_bytes:
            raise tarfile.ReadError(f"it unpacks to more than {self._max_bytes} bytes")
        return content

    def seek(self, position: int, whence: int = io.SEEK_SET) -> int:
        """Reads forwards to a position.

        Raises:
            tarfile.ReadError: the position is before the bytes already read, or ``read`` raises it.
        """
        if whence != io.SEEK_SET or position < self.tell():
            raise tarfile.ReadError("a header points backwards")
        while self.tell() < position and self.read(min(2**20, position - self.tell())):
            pass
        return self.tell()


def unpack(stream: Any) -> Any:
    """Returns the stream of a tar, decompressed if it is gzip, whatever the file's name.

    Raises:
        FormatError: it has another compression format.
    """
    beginning = stream.read(6)
    stream.seek(0)
    for magic, name in OTHER_FORMATS.items():
        if beginning.startswith(magic):
            raise FormatError(name)
    return Unpacked(stream) if beginning.startswith(GZIP) else stream


class Member(NamedTuple):
    """A file in a tar.

    Attributes:
        key: name up to the first dot after the last slash.
        ending: name after that dot, with the part after the last dot in lower case.
        size: size in bytes.
        read: returns the content; call it before the next member is read.
    """

    key: str
    ending: str
    size: int
    read: Callable[[], bytes]


def read_members(stream: Any) -> Iterator[Member]:
    """Yields the files of a tar that have a key and an ending.

    Folders, links, sparse files and files that operating systems add are left out.

    Raises:
        tarfile.TarError: the tar is damaged from there, has no end mark, or continues after it.
        FormatError: it has an unsupported compression format.
    """
    stream = unpack(stream)
    # A name that is not UTF-8 is escaped, in the same way on every machine.
    encoding, errors = "utf-8", "backslashreplace"
    with (
        damage_as_read_errors(),
        tarfile.open(fileobj=stream, mode="r:", tarinfo=CheckedHeader, encoding=encoding, errors=errors) as archive,
    ):
        while (header := archive.next()) is not None:
            forget_members(archive)
            key, ending = split_name(header.name)
            if header.isreg() and not header.issparse() and key and ending and not is_of_system(header.name):
                yield Member(key, ending, header.size, partial(read_content, archive, header))
        check_rest(stream, archive.offset)


@contextmanager
def damage_as_read_errors() -> Iterator[None]:
    """Converts other errors that damage causes in tarfile into ``tarfile.ReadError``."""
    try:
        yield
    # Raised by int(), by short slices and by huge sizes.
    except (ValueError, LookupError, OverflowError, RecursionError) as error:
        raise tarfile.ReadError(str(error)) from error


class CheckedHeader(tarfile.TarInfo):
    """A tar header that raises on damage, where tarfile would take the header for the end of the tar."""

    @classmethod
    def frombuf(cls, buf, encoding, errors):
        """Parses a block of 512 bytes.

        Raises:
            tarfile.HeaderError: it is not a header, or it is the end mark.
        """
        header = super().frombuf(buf, encoding, errors)
        if not 0 <= header.size < (MAX_HEADER_BYTES if header.type in HEADERS_OF_HEADERS else MAX_SIZE):
            raise tarfile.HeaderError("a header gives an impossible size")
        return header

    @classmethod
    def fromtarfile(cls, archive):
        """Reads the next header with its extended headers, such as a long name.

        Raises:
            tarfile.HeaderError: only at the end mark.
            tarfile.ReadError: the header is damaged, or missing.
        """
        try:
            header = super().fromtarfile(archive)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(str(error)) from error
        # An extended header may replace the size.
        if not 0 <= header.size < MAX_SIZE or archive.offset < header.offset_data:
            raise tarfile.ReadError("a header gives an impossible size")
        return header


def forget_members(archive: tarfile.TarFile) -> None:
    """Clears tarfile's list of headers, which would grow with each file of a large tar."""
    vars(archive)["members"].clear()


def split_name(name: str) -> tuple[str, str]:
    """Splits ``"a.b/000.Left.JPG"`` into ``"a.b/000"`` and ``"Left.jpg"``; either is empty if the name lacks it."""
    folder, slash, file = name.rpartition("/")
    stem, _, ending = file.partition(".")
    rest, dot, last = ending.rpartition(".")
    return (folder + slash + stem if stem else ""), rest + dot + last.lower()


def read_content(archive: tarfile.TarFile, header: tarfile.TarInfo) -> bytes:
    """Reads a file of a tar.

    Raises:
        tarfile.ReadError: the tar ends within it.
    """
    with damage_as_read_errors():
        file = archive.extractfile(header)
        content = b"" if file is None else file.read()
    if len(content) != header.size:
        raise tarfile.ReadError("unexpected end of data")
    return content


def check_rest(stream: Any, end: int) -> None:
    """Checks that only zeros follow the end of a tar: a block of zeros amid the files looks like its end.

    Raises:
        tarfile.ReadError: other bytes follow.
    """
    if not isinstance(stream, Unpacked):  # a gzip stream is already past the end mark, and can't seek back
        stream.seek(end)
    while block := stream.read(2**20):
        if block.strip(b"\0"):
            raise tarfile.ReadError("data follows its end mark")
