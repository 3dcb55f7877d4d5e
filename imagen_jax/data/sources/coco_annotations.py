"""Reads COCO's captions files entry by entry: invalid entries become ``Damage``, and the others are read.

JSON -> entries of images and captions, joined by image id -> ``CocoImage``s in the order of their ids, and ``Damage``s
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

from imagen_jax.data.sources.record_fields import scalars_of
from imagen_jax.data.sources.records import Damage
from imagen_jax.storage.json_text import parse_json
from imagen_jax.storage.names import stays_below

Id = int | str
"""An image's id. A text of digits only is read as a number, since files differ in how they write it."""

Group = tuple[str, str]
"""One of Karpathy's splits, and an official folder."""


class CocoImage(NamedTuple):
    """One photograph, without its bytes.

    Attributes:
        file: path within COCO's folder, such as ``train2014/COCO_train2014_000000000009.jpg``.
        captions: stripped, non-empty captions; may be an empty tuple.
        metadata: ``coco_id``, and other known attributes.
    """

    file: str
    captions: tuple[str, ...]
    metadata: dict[str, Any]


class EntryError(ValueError):
    """Raised for an entry that is left out: a reason, equal for all entries of a kind, and the entry's details."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason, self.detail = reason, detail


def parse_captions(content: bytes, official: str) -> tuple[list[CocoImage], list[Damage]]:
    """Reads an official captions file: its images in the order of their ids, and the entries that are left out.

    Args:
        content: JSON of the file.
        official: folder of its images, such as ``train2014``.

    Raises:
        ValueError: it is not JSON, has no lists of images and captions, or has no usable entry.
    """
    document = parse_json(content)
    entries, damaged = list_of(document, "images"), []
    licences = read_licences(document.get("licenses"))
    files: dict[Id, str] = {}
    known: dict[Id, Mapping[str, Any]] = {}
    for number, entry in enumerate(entries):
        try:
            identity = id_of(entry, "id", "image")
            if identity in files:
                raise EntryError("id appears twice", f"{identity!a}")
            files[identity], known[identity] = f"{official}/{name_in(entry, 'file_name')}", entry
        except EntryError as error:
            damaged.append(Damage(f"{official} image {number}", error.reason, error.detail))
    captions: dict[Id, list[str]] = defaultdict(list)
    annotations = list_of(document, "annotations")
    for number, annotation in sorted(enumerate(annotations), key=lambda item: order_of(item[1], item[0])):
        try:
            identity = id_of(annotation, "image_id", "annotation")
            if identity not in files:
                raise EntryError("annotation of an image that is not listed", f"image_id {identity!a}")
            captions[identity].append(caption_in(annotation, "caption"))
        except EntryError as error:
            damaged.append(Damage(f"{official} annotation {number}", error.reason, error.detail))
    images = [
        CocoImage(file, clean(captions[identity]), describe(identity, known[identity], licences))
        for identity, file in files.items()
    ]
    if damaged and not any(image.captions for image in images):
        raise first_of(damaged)
    return sort_by_id(images), damaged


def parse_karpathy(
    document: Any, folders: Collection[str], splits: Collection[str]
) -> tuple[dict[Group, list[CocoImage]], dict[Group, list[Damage]]]:
    """Reads Karpathy's file: the images of each split and folder, and the entries that are left out.

    Images are in the order of their ids.

    Args:
        document: parsed JSON of the file.
        folders: names of the official folders.
        splits: all split names that the file may contain.

    Raises:
        ValueError: it has no list of images, or no usable entry.
    """
    images: dict[Group, list[CocoImage]] = defaultdict(list)
    damaged: dict[Group, list[Damage]] = defaultdict(list)
    for number, entry in enumerate(list_of(document, "images")):
        # Damaged entries without a valid split and folder are counted here, since parts belong to one of each.
        group = ("train", min(folders))
        key = f"karpathy image {number}"
        try:
            identity = id_of(entry, "cocoid", "image")
            split, folder = entry.get("split"), entry.get("filepath")
            if not isinstance(folder, str) or folder not in folders:
                raise EntryError("image of an unknown folder", f"filepath {folder!a:.100}")
            if not isinstance(split, str) or split not in splits:
                raise EntryError("image of an unknown split", f"split {split!a:.100}")
            group = (split, folder)
            file = f"{folder}/{name_in(entry, 'filename')}"
            captions = []
            for sentence in list_of(entry, "sentences"):
                try:
                    captions.append(caption_in(sentence, "raw"))
                except EntryError as error:
                    damaged[group].append(Damage(key, error.reason, error.detail))
            images[group].append(CocoImage(file, clean(captions), {"coco_id": identity}))
        except EntryError as error:
            damaged[group].append(Damage(key, error.reason, error.detail))
    if damaged and not any(image.captions for some in images.values() for image in some):
        raise first_of([damage for some in damaged.values() for damage in some])
    return {group: sort_by_id(some) for group, some in images.items()}, damaged


def first_of(damaged: list[Damage]) -> ValueError:
    """Returns an error that describes the first damaged entry, for a file without usable entries."""
    first = damaged[0]
    return ValueError(f"{first.key}: {first.reason}" + (f", {first.detail}" if first.detail else ""))


def list_of(document: Any, name: str) -> list[Any]:
    """Returns a list in a JSON object.

    Raises:
        EntryError: the object has no such list.
    """
    found = document.get(name) if isinstance(document, dict) else None
    if not isinstance(found, list):
        raise EntryError(f"it has no list {name!r}")
    return found


def id_of(entry: Any, name: str, what: str) -> Id:
    """Returns an id in an entry.

    Args:
        entry: the entry.
        name: name of the id's field.
        what: kind of the entry, for messages.

    Raises:
        EntryError: the entry has no id.
    """
    found = entry.get(name) if isinstance(entry, dict) else None
    if isinstance(found, str) and found.isascii() and found.isdigit() and len(found) < 20:
        return int(found)
    if isinstance(found, float) and found.is_integer():
        return int(found)
    if found in (None, "") or isinstance(found, bool) or not isinstance(found, int | str):
        raise EntryError(f"{what} without {name}", "" if found is None else f"it is {found!a:.100}")
    return found


def order_of(annotation: Any, number: int) -> tuple[int, Any, int]:
    """Returns the sort key of an annotation: by its id; those without one come last, in the order of the file."""
    try:
        identity = id_of(annotation, "id", "annotation")
    except EntryError:
        return 2, 0, number
    return isinstance(identity, str), identity, number


def name_in(entry: Mapping[str, Any], name: str) -> str:
    """Returns the file name in an entry, which must be within its folder.

    Raises:
        EntryError: it is not a file name, or leads out of the folder.
    """
    found = entry.get(name)
    if not isinstance(found, str) or "\\" in found or not stays_below(found):
        raise EntryError(f"{name} leads to no file of the folder", f"{found!a:.300}")
    return found


def caption_in(entry: Any, name: str) -> str:
    """Returns the caption in an entry.

    Raises:
        EntryError: it is not text.
    """
    found = entry.get(name) if isinstance(entry, dict) else None
    if not isinstance(found, str):
        raise EntryError("caption is no text", f"{name} is {found!a:.100}")
    return found


def read_licences(entries: Any) -> dict[Id, str]:
    """Returns the licences' URLs by id; invalid entries are skipped, since only metadata depend on them."""
    licences = {}
    for entry in entries if isinstance(entries, list) else ():
        try:
            identity = id_of(entry, "id", "licence")
            licences[identity] = str(entry["url"])
        except (EntryError, KeyError):
            continue
    return licences


def describe(identity: Id, image: Mapping[str, Any], licences: Mapping[Id, str]) -> dict[str, Any]:
    """Returns the metadata of an image: its id, and the size and licence that its entry contains."""
    known = {name: image[name] for name in ("width", "height") if name in image}
    try:
        licence = licences.get(id_of(image, "license", "image"))
    except EntryError:
        licence = None
    return scalars_of({"coco_id": identity, **known, **({"license": licence} if licence else {})})


def clean(captions: Iterable[str]) -> tuple[str, ...]:
    """Collapses white space in captions, strips them, and removes empty ones."""
    return tuple(filter(None, (" ".join(caption.split()) for caption in captions)))


def sort_by_id(images: Iterable[CocoImage]) -> list[CocoImage]:
    """Sorts images by id, numbers before text."""
    return sorted(images, key=lambda image: (isinstance(image.metadata["coco_id"], str), image.metadata["coco_id"]))
