"""COCO's files of captions, entry by entry: what is wrong with one is damage, and the others are read.

JSON -> entries of images and captions, joined by the images' ids -> ``CocoImage``s by their ids, and ``Damage``s
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

from imagen_jax.data.sources.record_fields import scalars_of
from imagen_jax.data.sources.records import Damage
from imagen_jax.storage.json_text import parse_json
from imagen_jax.storage.names import stays_below

Id = int | str
"""Of an image. Text of digits alone is the number, for some write one file so and the other so."""

Place = tuple[str, str]
"""One of Karpathy's splits, and an official folder."""


class CocoImage(NamedTuple):
    """One photograph, without its bytes.

    Attributes:
        file: within the folder of COCO, such as ``train2014/COCO_train2014_000000000009.jpg``.
        captions: stripped, none of them empty; maybe there are none.
        metadata: its ``coco_id``, and what else is known of it.
    """

    file: str
    captions: tuple[str, ...]
    metadata: dict[str, Any]


class EntryError(ValueError):
    """An entry that is left out: why, in a few words that are the same for all of a kind, and what it has there."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason, self.detail = reason, detail


def parse_captions(content: bytes, official: str) -> tuple[list[CocoImage], list[Damage]]:
    """Reads an official file of captions: its images in the order of their ids, and what is left out.

    Args:
        content: its JSON.
        official: the folder of its images, such as ``train2014``.

    Raises:
        ValueError: it is no JSON, has no lists of images and captions, or nothing in them can be used.
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
) -> tuple[dict[Place, list[CocoImage]], dict[Place, list[Damage]]]:
    """Reads Karpathy's file: the images of each split and folder in the order of their ids, and what is left out.

    Args:
        document: the file's JSON.
        folders: the official ones.
        splits: all that the file may name.

    Raises:
        ValueError: it has no list of images, or nothing in it can be used.
    """
    images: dict[Place, list[CocoImage]] = defaultdict(list)
    damaged: dict[Place, list[Damage]] = defaultdict(list)
    for number, entry in enumerate(list_of(document, "images")):
        # Of one that names no place: where it is counted, for the parts are those of each.
        place = ("train", min(folders))
        key = f"karpathy image {number}"
        try:
            identity = id_of(entry, "cocoid", "image")
            split, folder = entry.get("split"), entry.get("filepath")
            if not isinstance(folder, str) or folder not in folders:
                raise EntryError("image of an unknown folder", f"filepath {folder!a:.100}")
            if not isinstance(split, str) or split not in splits:
                raise EntryError("image of an unknown split", f"split {split!a:.100}")
            place = (split, folder)
            file = f"{folder}/{name_in(entry, 'filename')}"
            captions = []
            for sentence in list_of(entry, "sentences"):
                try:
                    captions.append(caption_in(sentence, "raw"))
                except EntryError as error:
                    damaged[place].append(Damage(key, error.reason, error.detail))
            images[place].append(CocoImage(file, clean(captions), {"coco_id": identity}))
        except EntryError as error:
            damaged[place].append(Damage(key, error.reason, error.detail))
    if damaged and not any(image.captions for some in images.values() for image in some):
        raise first_of([damage for some in damaged.values() for damage in some])
    return {place: sort_by_id(some) for place, some in images.items()}, damaged


def first_of(damaged: list[Damage]) -> ValueError:
    """An error that tells the first of what is left out, where nothing else is left."""
    first = damaged[0]
    return ValueError(f"{first.key}: {first.reason}" + (f", {first.detail}" if first.detail else ""))


def list_of(document: Any, name: str) -> list[Any]:
    """A list in a JSON object.

    Raises:
        EntryError: there is none.
    """
    found = document.get(name) if isinstance(document, dict) else None
    if not isinstance(found, list):
        raise EntryError(f"it has no list {name!r}")
    return found


def id_of(entry: Any, name: str, what: str) -> Id:
    """An image's id in an entry.

    Raises:
        EntryError: the entry has none.
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
    """Where an annotation stands among the others: by its id, and those without one last, as the file has them."""
    try:
        identity = id_of(annotation, "id", "annotation")
    except EntryError:
        return 2, 0, number
    return isinstance(identity, str), identity, number


def name_in(entry: Mapping[str, Any], name: str) -> str:
    """The name of a file, which lies in a folder and not elsewhere.

    Raises:
        EntryError: it leads elsewhere, or is none.
    """
    found = entry.get(name)
    if not isinstance(found, str) or "\\" in found or not stays_below(found):
        raise EntryError(f"{name} leads to no file of the folder", f"{found!a:.300}")
    return found


def caption_in(entry: Any, name: str) -> str:
    """A caption.

    Raises:
        EntryError: it is no text.
    """
    found = entry.get(name) if isinstance(entry, dict) else None
    if not isinstance(found, str):
        raise EntryError("caption is no text", f"{name} is {found!a:.100}")
    return found


def read_licences(entries: Any) -> dict[Id, str]:
    """The licences' addresses by their ids; what names none is passed over, since only metadata hang on it."""
    licences = {}
    for entry in entries if isinstance(entries, list) else ():
        try:
            identity = id_of(entry, "id", "licence")
            licences[identity] = str(entry["url"])
        except (EntryError, KeyError):
            continue
    return licences


def describe(identity: Id, image: Mapping[str, Any], licences: Mapping[Id, str]) -> dict[str, Any]:
    """Returns the metadata of an image: of an official file's entry what it knows."""
    known = {name: image[name] for name in ("width", "height") if name in image}
    try:
        licence = licences.get(id_of(image, "license", "image"))
    except EntryError:
        licence = None
    return scalars_of({"coco_id": identity, **known, **({"license": licence} if licence else {})})


def clean(captions: Iterable[str]) -> tuple[str, ...]:
    """Makes every run of white space one space, strips, and leaves out what is then empty."""
    return tuple(filter(None, (" ".join(caption.split()) for caption in captions)))


def sort_by_id(images: Iterable[CocoImage]) -> list[CocoImage]:
    """Puts images in the order of their ids, numbers before text."""
    return sorted(images, key=lambda image: (isinstance(image.metadata["coco_id"], str), image.metadata["coco_id"]))
