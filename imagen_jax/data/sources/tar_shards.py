"""Reads tar shards of img2dataset and webdataset: many groups of ``000010012.jpg``, ``.txt`` and ``.json``.

The files of one record are consecutive in the tar. They share their name up to the first dot after the last slash
(https://github.com/webdataset/webdataset, https://github.com/rom1504/img2dataset). More dots are allowed:
``7.input.jpg`` is the image of ``7.txt``, and ``photo.v2.jpg`` that of ``photo.v2.txt``.
"""

import tarfile
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

from imagen_jax.data.sources.image_folders import left_out_of, left_out_part
from imagen_jax.data.sources.record_fields import captions_or_damage, decode_text, parse_json_object, scalars_of
from imagen_jax.data.sources.records import Damage, Part, Record
from imagen_jax.data.sources.tar_members import FormatError, Member, read_members
from imagen_jax.errors import UserError
from imagen_jax.storage.paths import Path, in_bucket, list_below, to_path
from imagen_jax.storage.refusals import raise_if_denied

ATTRIBUTION = "Images that others collected in tar shards; each has the licence of its origin"

SHARDS = (".tar", ".tar.gz", ".tgz")
COMPRESSED_OTHERWISE = (".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tzst")

IMAGES = ("jpg", "jpeg", "png", "webp")
"""Endings of images, in order of preference if a record has several."""

TEXT = "txt"
METADATA = "json"

MAX_MEMBER_BYTES = 256 * 2**20
"""Max bytes of an image. A record with a larger one is damage."""

MAX_TEXT_BYTES = 2**22
"""Max bytes of a caption or metadata file. A record with a larger one is damage."""

MAX_MEMBERS = 16
"""Max number of files that are read of one record."""

APART = "files of one key are not adjacent"


def tar_shard_parts(folder: str | Path, caption: str = TEXT, pattern: str = "", image: str = "") -> list[Part]:
    """Lists the shards of a folder and its subfolders by name, each as a part.

    A record's key is the shard's name and the key in the tar, since many data sets restart their numbers in each shard.
    Members other than an image, the caption and ``.json`` are left out.

    Args:
        folder: folder of the shards, which may be in a bucket. Shards may be compressed with gzip.
        caption: ``"txt"``, or the field of the ``.json`` file with a caption or a list of captions.
        pattern: glob pattern of the shards' paths relative to the folder, where ``*`` also matches slashes; "": all
            paths that end in ``.tar``, ``.tar.gz`` or ``.tgz``.
        image: image name after the key, such as ``input.jpg``, for keys with several images; "": any image.

    Raises:
        UserError: the folder does not exist or contains no shard, or a shard has an unsupported compression format.
    """
    if not str(folder):
        raise UserError("no folder of tar shards is given: name it in --option=folder=FOLDER")
    folder = to_path(folder).expanduser()
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}: give the folder with your tar shards")
    listing = list_below(folder)
    names = {file.relative_to(folder).as_posix(): mark for file, mark in listing.files.items()}
    if unread := sorted(name for name in names if not pattern and name.endswith(COMPRESSED_OTHERWISE)):
        raise UserError(
            f"{folder / unread[0]} is compressed in an unsupported way: unpack it to .tar or compress it with "
            "gzip, or leave such files out with --option=pattern=*.tar"
        )
    shards = sorted(name for name in names if (fnmatchcase(name, pattern) if pattern else name.endswith(SHARDS)))
    if not shards:
        raise UserError(f"{folder} has no {pattern or '*.tar'}: give the folder with your tar shards")
    chosen = image.lower().removeprefix(".")
    parts = [Part(name, names[name], partial(read_shard, folder, name, caption, chosen)) for name in shards]
    return parts + left_out_part(left_out_of(listing, folder))


def read_shard(folder: Path, name: str, caption: str = TEXT, image: str = "") -> Iterator[Record | Damage]:
    """Yields the records and the damage of one shard, in its order.

    Where a shard is damaged, the record before the damage is left out, since it may lack its last files.

    Raises:
        UserError: the shard exists but can't be read, or its folder was removed.
    """
    shard = folder / name
    prefix = next((name.removesuffix(ending) for ending in SHARDS if name.endswith(ending)), name)
    wanted = {*IMAGES, METADATA} | ({TEXT} if caption == TEXT else set())
    try:
        with shard.open("rb") as stream:
            for item in items_of(read_groups(stream, wanted, image), caption, image):
                key = f"{prefix}/{item.key}"
                yield replace(item, key=key, concept=key) if isinstance(item, Record) else replace(item, key=key)
    except FileNotFoundError as error:
        if not in_bucket(folder) and not folder.is_dir():
            raise UserError(f"{folder} is gone: bring it back, and run the same command again") from error
        yield Damage(name, "shard is gone")
    except tarfile.TarError as error:
        yield Damage(name, "shard is damaged", str(error))
    except FormatError as error:
        raise UserError(f"{shard} is compressed with {error}: unpack it, or compress it with gzip") from error
    except OSError as error:
        raise_if_denied(error, shard)
        if in_bucket(shard):
            raise
        raise UserError(f"{shard} can't be read ({error.strerror}): repair or remove it") from error


@dataclass
class Group:
    """The files of one record, or of several that share their name up to the first dot.

    Attributes:
        key: shared part of the names.
        endings: the remaining parts of the names.
        contents: contents of the wanted files, by ending.
        too_large: ending of a wanted file that is too large, or "".
    """

    key: str
    endings: set[str] = field(default_factory=set)
    contents: dict[str, bytes] = field(default_factory=dict)
    too_large: str = ""


def kind_of(ending: str) -> str:
    """Returns the part after the last dot of an ending: "jpg" of "input.jpg"."""
    return ending.rpartition(".")[2]


def stem_of(ending: str) -> str:
    """Returns the part before the last dot of an ending: "input" of "input.jpg", "" of "jpg"."""
    return ending.rpartition(".")[0]


def max_bytes_of(ending: str) -> int:
    """Returns the max bytes of a file with an ending."""
    return MAX_MEMBER_BYTES if kind_of(ending) in IMAGES else MAX_TEXT_BYTES


def items_of(groups: Iterable[Group], caption: str, image: str) -> Iterator[Record | Damage]:
    """Yields the records and the damage of groups.

    The damage of groups without an image or a caption comes last, since those files may come later in the tar.

    Raises:
        tarfile.TarError: ``groups`` raised it; it is raised again after everything else.
    """
    keys: set[str] = set()
    endings: dict[str, frozenset[str]] = {}
    lacking: dict[str, Damage] = {}
    damage: tarfile.TarError | None = None
    try:
        for group in groups:
            before = endings.get(group.key)
            endings[group.key] = (before or frozenset()) | group.endings
            items = list(read_group(group, caption, image))
            lacks = not group.too_large and not has_image_and_caption(group, caption)
            if before is not None and lacks and not before & group.endings:
                detail = "write the tar again, sorted by name, such as with tar --sort=name"
                lacking[group.key] = Damage(group.key, APART, detail)
                continue
            for item in items:
                if item.key in keys or (lacks and item.key in lacking):
                    yield Damage(item.key, "key appears twice")
                elif lacks and isinstance(item, Damage):
                    lacking[item.key] = item
                else:
                    keys.add(item.key)
                    yield item
    except tarfile.TarError as error:
        damage = error
    yield from lacking.values()
    if damage is not None:
        raise damage


def read_group(group: Group, caption: str, image: str) -> Iterator[Record | Damage]:
    """Yields the record of a group, or several: one for each image, if images have captions of the same name."""
    if group.too_large:
        max_bytes = max_bytes_of(group.too_large)
        yield Damage(group.key, "member is too large", f".{group.too_large} is over {max_bytes} bytes")
        return
    kinds = IMAGES if not image else (kind_of(image),)
    images: dict[str, str] = {}
    for kind in kinds:
        for ending in group.contents:
            if kind_of(ending) == kind and (not image or ending.lower() == image):
                images.setdefault(stem_of(ending), ending)
    beside = TEXT if caption == TEXT else METADATA
    paired = [stem for stem in images if stem and named(stem, beside) in group.contents]
    if not images:
        has = ", ".join(f".{ending}" for ending in sorted(group.endings)[:MAX_MEMBERS])
        yield Damage(group.key, "no image", f"it has {has}; an image is .{image or ', .'.join(IMAGES)}")
    elif "" in images or (len(images) == 1 and (image or not paired)):
        yield read_record(group, group.key, images.get("") or next(iter(images.values())), caption)
    elif paired:
        for stem, ending in images.items():
            yield read_record(group, f"{group.key}.{stem}", ending, caption)
    else:
        several = ", ".join(images.values())
        yield Damage(group.key, "several images", f"{several}: choose one, as in --option=image={min(images.values())}")


def has_image_and_caption(group: Group, caption: str) -> bool:
    """Returns whether a group has an image and a file that may contain its caption."""
    kinds = {kind_of(ending) for ending in group.contents}
    return bool(kinds & {*IMAGES}) and (TEXT if caption == TEXT else METADATA) in kinds


def named(stem: str, kind: str) -> str:
    """Joins a stem and a kind to an ending."""
    return f"{stem}.{kind}" if stem else kind


def content_beside(group: Group, image: str, kind: str) -> bytes | None:
    """Returns the content of a kind for an image: that of the same name, that of the key, or the only one."""
    for ending in (named(stem_of(image), kind), kind):
        if ending in group.contents:
            return group.contents[ending]
    found = [content for ending, content in group.contents.items() if kind_of(ending) == kind]
    return found[0] if len(found) == 1 and sum(kind_of(ending) in IMAGES for ending in group.contents) == 1 else None


def read_record(group: Group, key: str, image: str, caption: str) -> Record | Damage:
    """Makes a record of an image in a group and the files next to it, or returns the damage."""
    if not group.contents[image]:
        return Damage(key, "image is empty")
    values: dict[str, Any] = {}
    metadata = content_beside(group, image, METADATA)
    if metadata is not None:
        try:
            values = parse_json_object(metadata.decode("utf-8-sig"))
        except ValueError as error:
            return Damage(key, "metadata is not JSON", str(error))
    text = content_beside(group, image, TEXT)
    written = values.get(caption) if caption != TEXT else None if text is None else decode_text(text)
    captions = captions_or_damage(key, [written])
    if isinstance(captions, Damage):
        return captions
    return Record(key, captions, group.contents[image], scalars_of(values), concept=key)


def read_groups(stream: Any, wanted: Collection[str], image: str = "") -> Iterator[Group]:
    """Yields the files of each record as a group, once no more of them can follow.

    A file with an ending that the group already has begins another record of the same key.

    Args:
        stream: seekable stream of a tar.
        wanted: kinds of the files to read; others are skipped.
        image: ending of the image, or "" for any.

    Raises:
        tarfile.TarError: the tar is damaged from there.
        FormatError: it has an unsupported compression format.
    """
    group: Group | None = None
    try:
        for member in read_members(stream):
            if group is None or begins_another(group, member, wanted, image):
                if group is not None:
                    yield group
                group = Group(member.key)
            group.endings.add(member.ending)
            if kind_of(member.ending) not in wanted:
                continue
            if member.size > max_bytes_of(member.ending):
                group.too_large = member.ending
            else:
                group.contents[member.ending] = member.read()
    except tarfile.TarError as error:
        left_out = "" if group is None else f"; {group.key} is left out, because it may be incomplete"
        raise tarfile.ReadError(f"{error}{left_out}") from error
    if group is not None:
        yield group


def begins_another(group: Group, member: Member, wanted: Collection[str], image: str) -> bool:
    """Returns whether the next file belongs to another record than the group.

    It does in each of these cases:

    - Its key differs, or the group already has its ending.
    - It is wanted, and the group has ``MAX_MEMBERS`` files.
    - It is wanted, no ``image`` is chosen, the group is complete, and the file's stem (see ``stem_of``) is new and not
      empty. A group is complete if it has an image and another file with the same non-empty stem.
    """
    if member.key != group.key or member.ending in group.endings:
        return True
    if kind_of(member.ending) not in wanted:
        return False
    stem = stem_of(member.ending)
    kinds: dict[str, set[bool]] = {}
    for ending in group.contents:
        kinds.setdefault(stem_of(ending), set()).add(kind_of(ending) in IMAGES)
    whole = any(one and len(found) == 2 for one, found in kinds.items())
    return len(group.contents) >= MAX_MEMBERS or (whole and bool(stem) and stem not in kinds and not image)
