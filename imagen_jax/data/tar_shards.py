"""Tar shards as img2dataset and webdataset write them: a thousand times ``000010012.jpg``, ``.txt`` and ``.json``.

Files of one record follow each other in the tar and share the name up to the first dot after the last slash
(https://github.com/webdataset/webdataset, https://github.com/rom1504/img2dataset).
"""

import tarfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import partial
from typing import Any, NamedTuple

from imagen_jax.data.image_folders import left_out_of, left_out_part
from imagen_jax.data.record_fields import captions_or_damage, decode_text, parse_json_object, scalars_of
from imagen_jax.data.records import Damage, Part, Record
from imagen_jax.errors import UserError
from imagen_jax.storage.names import is_of_system
from imagen_jax.storage.paths import Path, in_bucket, list_below, to_path

ATTRIBUTION = "Images that others collected in tar shards; each is under the licence of where it comes from"

IMAGES = ("jpg", "jpeg", "png", "webp")
"""Endings of the image; where a record has several, the first of these is taken."""

TEXT = "txt"
METADATA = "json"

MAX_MEMBER_BYTES = 256 * 2**20
"""Of an image. What is larger is passed over."""

MAX_TEXT_BYTES = 2**22
"""Of a caption or metadata, likewise."""

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


def tar_shard_parts(folder: str | Path, caption: str = TEXT, pattern: str = "*.tar") -> list[Part]:
    """Lists the shards of a folder and its subfolders, by name: each is a part.

    A record's key is the shard's name and its own in the tar, since many number theirs anew in each shard. Other
    members than an image, the caption and ``.json`` are left out.

    Args:
        folder: where the shards are, maybe in a bucket. They are not compressed.
        caption: ``"txt"``, or the field of the ``.json`` that holds the caption, or a list of them.
        pattern: which files of the folder are shards, by their paths in it, with ``*`` for anything, also a slash.

    Raises:
        UserError: there is no such folder, or no shard in it.
    """
    if not str(folder):
        raise UserError("no folder of tar shards is given: name it in --option=folder=FOLDER")
    folder = to_path(folder).expanduser()
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}: give the folder that holds your tar shards")
    listing = list_below(folder)
    names = {file.relative_to(folder).as_posix(): mark for file, mark in listing.files.items()}
    shards = sorted(name for name in names if fnmatchcase(name, pattern))
    if not shards:
        raise UserError(f"{folder} holds no {pattern}: give the folder that holds your tar shards")
    parts = [Part(name, names[name], partial(read_shard, folder, name, caption)) for name in shards]
    return parts + left_out_part(left_out_of(listing, folder))


def read_shard(folder: Path, name: str, caption: str = TEXT) -> Iterator[Record | Damage]:
    """Gives the records of one shard in their order, and what is damaged.

    A record that may lack its last files, since the shard is damaged there, is no record.

    Raises:
        UserError: the shard is there and can't be read, or its folder is gone.
    """
    shard = folder / name
    wanted = {*IMAGES, METADATA} | ({TEXT} if caption == TEXT else set())
    keys: set[str] = set()
    try:
        with shard.open("rb") as stream:
            for group in read_groups(stream, wanted):
                item = Damage(group.key, "key appears twice") if group.key in keys else read_record(group, caption)
                keys.add(group.key)
                key = f"{name.removesuffix('.tar')}/{group.key}"
                yield replace(item, key=key, concept=key) if isinstance(item, Record) else replace(item, key=key)
    except FileNotFoundError as error:
        if not in_bucket(folder) and not folder.is_dir():
            raise UserError(f"{folder} is gone: bring it back, and run the same command again") from error
        yield Damage(name, "shard is gone")
    except tarfile.TarError as error:
        yield Damage(name, "shard is damaged", str(error))
    except OSError as error:
        if in_bucket(shard):
            raise
        raise UserError(f"{shard} can't be read ({error.strerror}): repair or remove it") from error


@dataclass
class Group:
    """The files of one record.

    Attributes:
        key: what their names share.
        endings: what their names do not share, in lower case.
        contents: of those files that are wanted, by their endings.
        too_large: the ending of one that is wanted and too large, or nothing.
    """

    key: str
    endings: set[str] = field(default_factory=set)
    contents: dict[str, bytes] = field(default_factory=dict)
    too_large: str = ""


def largest_of(ending: str) -> int:
    """Bytes that a file of this ending may have."""
    return MAX_MEMBER_BYTES if ending in IMAGES else MAX_TEXT_BYTES


def read_record(group: Group, caption: str = TEXT) -> Record | Damage:
    """Makes a record of its files, or says what is wrong with them."""
    if group.too_large:
        most = largest_of(group.too_large)
        return Damage(group.key, "member is too large", f".{group.too_large} is over {most} bytes")
    image = next((group.contents[ending] for ending in IMAGES if ending in group.contents), None)
    if image is None:
        return Damage(group.key, "no image")
    if not image:
        return Damage(group.key, "image is empty")
    values: dict[str, Any] = {}
    if METADATA in group.contents:
        try:
            values = parse_json_object(group.contents[METADATA].decode("utf-8-sig"))
        except ValueError as error:
            return Damage(group.key, "metadata is no JSON", str(error))
    text = group.contents.get(TEXT)
    written = values.get(caption) if caption != TEXT else None if text is None else decode_text(text)
    captions = captions_or_damage(group.key, [written])
    if isinstance(captions, Damage):
        return captions
    return Record(group.key, captions, image, scalars_of(values), concept=group.key)


def read_groups(stream: Any, wanted: Collection[str]) -> Iterator[Group]:
    """Gives the records' files, each when it is sure that no more of them come.

    Where a file comes that its record has already, another record of that name begins.

    Args:
        stream: of a tar's bytes, which can seek.
        wanted: endings of the files that are read; the others are passed over.

    Raises:
        tarfile.TarError: from there on it is no tar.
    """
    group: Group | None = None
    try:
        for member in read_members(stream):
            if group is None or member.key != group.key or member.ending in group.endings:
                if group is not None:
                    yield group
                group = Group(member.key)
            group.endings.add(member.ending)
            if member.ending in wanted and member.size > largest_of(member.ending):
                group.too_large = member.ending
            elif member.ending in wanted:
                group.contents[member.ending] = member.read()
    except tarfile.TarError as error:
        left_out = "" if group is None else f"; {group.key} is left out, which may lack files"
        raise tarfile.ReadError(f"{error}{left_out}") from error
    if group is not None:
        yield group


class Member(NamedTuple):
    """A file in a tar.

    Attributes:
        key: its name up to the first dot after the last slash.
        ending: its name after that dot, in lower case.
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
    """
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
    """Divides ``"a.b/000.Left.jpg"`` into ``"a.b/000"`` and ``"left.jpg"``; one of both is empty where a dot lacks."""
    folder, slash, file = name.rpartition("/")
    stem, _, ending = file.partition(".")
    return (folder + slash + stem if stem else ""), ending.lower()


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
    stream.seek(end)
    while block := stream.read(2**20):
        if block.strip(b"\0"):
            raise tarfile.ReadError("something follows its end mark")
