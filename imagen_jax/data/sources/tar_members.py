"""The files of a tar, one after another: damage is told from the tar's end, and gzip is unpacked on the way.

stream -> gzip unpacked, bombs stopped -> headers checked -> ``Member``: key, ending, size, content when asked for
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
"""Of what a tar says of one member, such as a long name, which tarfile reads whole."""

MAX_SIZE = 2**42
"""In bytes, of any member: a header that gives more lies, and no disk seeks that far."""

HEADERS_OF_HEADERS = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)


GZIP = b"\x1f\x8b"

OTHER_FORMATS = {b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zstd", b"PK\x03\x04": "zip"}
"""How files begin that are packed in a way that is not read, and what that is called."""

MAX_UNPACKED_RATIO = 100
"""Bytes that a byte of gzip may become, beyond the first 64 MiB: images hardly shrink, and bombs a thousandfold."""


class FormatError(Exception):
    """A file is compressed in a way that is not read; the message names it."""


class Unpacked(io.RawIOBase):
    """What gzip holds, read forwards only and no further than a tar of images can be large.

    Args:
        packed: the file, at its beginning; it can seek.
    """

    def __init__(self, packed: Any) -> None:
        size = packed.seek(0, io.SEEK_END)
        packed.seek(0)
        self._file = gzip.GzipFile(fileobj=packed)
        self._most = 2**26 + MAX_UNPACKED_RATIO * size

    def tell(self) -> int:
        """How many bytes were read."""
        return self._file.tell()

    def read(self, size: int = -1) -> bytes:
        """The next bytes.

        Raises:
            tarfile.ReadError: it is no whole gzip, or a bomb.
        """
        try:
            content = self._file.read(size)
        except (OSError, EOFError, zlib.error) as error:
            if isinstance(error, OSError) and not isinstance(error, gzip.BadGzipFile):
                raise
            raise tarfile.ReadError(f"gzip: {error}") from error
        if self.tell() > self._most:
            raise tarfile.ReadError(f"it unpacks to more than {self._most} bytes")
        return content

    def seek(self, place: int, whence: int = io.SEEK_SET) -> int:
        """Reads on to a place.

        Raises:
            tarfile.ReadError: it lies before what was read, or see ``read``.
        """
        if whence != io.SEEK_SET or place < self.tell():
            raise tarfile.ReadError("a header leads backwards")
        while self.tell() < place and self.read(min(2**20, place - self.tell())):
            pass
        return self.tell()


def unpack(stream: Any) -> Any:
    """A tar's bytes, where they may be packed with gzip, whatever the file is called.

    Raises:
        FormatError: they are packed otherwise.
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
        key: its name up to the first dot after the last slash.
        ending: its name after that dot, and of that the part after the last dot in lower case.
        size: in bytes.
        read: gives its content; only before the next member is asked for.
    """

    key: str
    ending: str
    size: int
    read: Callable[[], bytes]


def read_members(stream: Any) -> Iterator[Member]:
    """Gives the files of a tar that have a key and an ending.

    Folders, links, sparse files and what operating systems add are left out.

    Raises:
        tarfile.TarError: from there on it is no tar, or it ends without saying so, or goes on after its end.
        FormatError: it is compressed in a way that is not read.
    """
    stream = unpack(stream)
    # A name that is not UTF-8 becomes one that is, and the same on every machine.
    encoding, errors = "utf-8", "backslashreplace"
    with (
        telling_of_damage(),
        tarfile.open(fileobj=stream, mode="r:", tarinfo=CheckedHeader, encoding=encoding, errors=errors) as archive,
    ):
        while (header := archive.next()) is not None:
            forget_members(archive)
            key, ending = split_name(header.name)
            if header.isreg() and not header.issparse() and key and ending and not is_of_system(header.name):
                yield Member(key, ending, header.size, partial(read_content, archive, header))
        check_rest(stream, archive.offset)


@contextmanager
def telling_of_damage() -> Iterator[None]:
    """Makes tarfile's own error of those that damage leads it to."""
    try:
        yield
    # Of int(), of short slices and of huge sizes.
    except (ValueError, LookupError, OverflowError, RecursionError) as error:
        raise tarfile.ReadError(str(error)) from error


class CheckedHeader(tarfile.TarInfo):
    """What a tar says of a member; where tarfile takes a damaged header for the end of the tar, this raises."""

    @classmethod
    def frombuf(cls, buf, encoding, errors):
        """Reads a block of 512 bytes.

        Raises:
            tarfile.HeaderError: it is no header, or the end mark.
        """
        header = super().frombuf(buf, encoding, errors)
        if not 0 <= header.size < (MAX_HEADER_BYTES if header.type in HEADERS_OF_HEADERS else MAX_SIZE):
            raise tarfile.HeaderError("a header gives an impossible size")
        return header

    @classmethod
    def fromtarfile(cls, archive):
        """Reads the next header, with what stands before it, such as a long name.

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
        # What stands before a header may replace its size.
        if not 0 <= header.size < MAX_SIZE or archive.offset < header.offset_data:
            raise tarfile.ReadError("a header gives an impossible size")
        return header


def forget_members(archive: tarfile.TarFile) -> None:
    """Lets go of the headers that were read: a tar of a million files has so many."""
    vars(archive)["members"].clear()


def split_name(name: str) -> tuple[str, str]:
    """Divides ``"a.b/000.Left.JPG"`` into ``"a.b/000"`` and ``"Left.jpg"``; one of both is empty where a dot lacks."""
    folder, slash, file = name.rpartition("/")
    stem, _, ending = file.partition(".")
    rest, dot, last = ending.rpartition(".")
    return (folder + slash + stem if stem else ""), rest + dot + last.lower()


def read_content(archive: tarfile.TarFile, header: tarfile.TarInfo) -> bytes:
    """Reads a file of a tar.

    Raises:
        tarfile.ReadError: the tar ends within it.
    """
    with telling_of_damage():
        file = archive.extractfile(header)
        content = b"" if file is None else file.read()
    if len(content) != header.size:
        raise tarfile.ReadError("unexpected end of data")
    return content


def check_rest(stream: Any, end: int) -> None:
    """Checks that only zeros follow where a tar ends: a block of zeros amid the files looks like its end.

    Raises:
        tarfile.ReadError: something follows.
    """
    if not isinstance(stream, Unpacked):  # of which the end mark is read, and only what follows is left
        stream.seek(end)
    while block := stream.read(2**20):
        if block.strip(b"\0"):
            raise tarfile.ReadError("something follows its end mark")
