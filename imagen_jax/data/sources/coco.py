"""COCO 2014 (Lin et al. 2014) with its captions (Chen et al. 2015): photographs, each with five captions or more.

The folder, which may be in a bucket, contains the downloads of cocodataset.org, extracted or not: ``annotations/`` or
``annotations_trainval2014.zip``, ``train2014/`` or ``train2014.zip``, ``val2014/`` or ``val2014.zip``. If both a zip
and its folder exist, the images are read from the zip: an incomplete zip is detected, an incomplete folder is not.
"""

import os
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import NamedTuple

from imagen_jax.data.preparation.file_errors import reason_of
from imagen_jax.data.sources.coco_annotations import CocoImage, parse_captions, parse_karpathy
from imagen_jax.data.sources.records import Damage, Part, Record, fingerprint_of
from imagen_jax.data.splits import Split
from imagen_jax.errors import UserError, lookup
from imagen_jax.storage.json_text import read_json
from imagen_jax.storage.paths import Path, mark_of, to_path
from imagen_jax.storage.refusals import raise_if_denied
from imagen_jax.storage.zip_members import DAMAGED_MEMBER, read_member

ATTRIBUTION = (
    "COCO 2014 (https://cocodataset.org): captions by the COCO Consortium, CC BY 4.0; "
    "the photographs are their photographers', from Flickr, each under its own licence"
)

OFFICIAL_SPLITS: dict[str, Split] = {"train2014": "train", "val2014": "validation"}
ANNOTATIONS_ZIP = "annotations_trainval2014.zip"
MAX_MEMBER_BYTES = 2**28
"""Max uncompressed bytes of a photograph or of a captions file; the largest captions file has 67 MB."""

KARPATHY_FILE = "dataset_coco.json"
KARPATHY_DOWNLOAD = "caption_datasets.zip from https://cs.stanford.edu/people/karpathy/deepimagesent"

KARPATHY_VALIDATION = {"val": "test", "test": "val"}
"""Splits that may validate, each with the split that is then left out."""


class ImageGroup(NamedTuple):
    """Images that are divided into parts together.

    Attributes:
        name: prefix of the parts' names.
        folder: official folder of the images, such as ``train2014``.
        split: split of all images.
        images: images in the order of their ids.
        damaged: entries of the captions file that are left out.
    """

    name: str
    folder: str
    split: Split
    images: list[CocoImage]
    damaged: list[Damage]


def coco_parts(
    folder: str | Path, splits: str = "plain", images_per_part: int = 1000, validation: str = "val"
) -> list[Part]:
    """Lists COCO's images in parts: consecutive images of one split, in the order of their ids.

    A part's fingerprint covers its annotations and the size and time of the zip of images. Extracted images are not
    checked: their names and annotations suffice, and checking 120,000 files would take minutes.

    Args:
        folder: folder of the downloads.
        splits: ``plain``: train2014 trains and val2014 validates. ``karpathy``: the splits of ``dataset_coco.json``,
            which is in the folder or in ``annotations/`` (Karpathy & Fei-Fei 2015); train and restval train. The
            captions are then those of that file, which has neither size nor licence of an image.
        images_per_part: max number of images of a part.
        validation: which of Karpathy's splits validates, ``val`` or ``test``; the other one is left out.

    Raises:
        UserError: a download is missing or invalid, or an option is unknown or out of range.
    """
    if not str(folder):
        raise UserError("no folder of COCO is given: name it in --option=folder=FOLDER")
    if images_per_part < 1:
        raise UserError(f"images_per_part of COCO is {images_per_part}: choose 1 or more")
    folder = to_path(folder).expanduser()
    list_groups = lookup({"plain": plain_groups, "karpathy": karpathy_groups}, splits, "splits of COCO")
    lookup(KARPATHY_VALIDATION, validation, "validation of COCO")
    if not folder.is_dir():
        raise UserError(
            f"there is no folder {folder}: give the one with the downloads of https://cocodataset.org, "
            f"{ANNOTATIONS_ZIP}, train2014.zip and val2014.zip"
        )
    return [
        part
        for group in list_groups(folder, validation)
        for part in split_into_parts(group, find_images(folder, group.folder), images_per_part)
    ]


def plain_groups(folder: Path, validation: str) -> Iterator[ImageGroup]:
    """Yields the images of train2014, then those of val2014.

    Raises:
        UserError: their captions are missing or invalid, or ``validation`` is not ``val``.
    """
    if validation != "val":
        raise UserError(f"validation={validation} needs splits=karpathy: the official split has no test captions")
    for name, split in OFFICIAL_SPLITS.items():
        captions = read_captions(folder, name)
        yield ImageGroup(name, name, split, captions.images, captions.damaged)


def karpathy_groups(folder: Path, validation: str) -> list[ImageGroup]:
    """Lists the images of Karpathy's train, restval and validation splits, each by official folder.

    Raises:
        UserError: Karpathy's file is missing or invalid.
    """
    roles: dict[str, Split] = {"train": "train", "restval": "train", validation: "validation"}
    left_out = KARPATHY_VALIDATION[validation]
    paths = [folder / KARPATHY_FILE, folder / "annotations" / KARPATHY_FILE]
    file = next((file for file in paths if file.is_file()), None)
    if file is None:
        raise UserError(f"{folder} has no {KARPATHY_FILE}: put it there, it is in {KARPATHY_DOWNLOAD}")
    try:
        images, damaged = parse_karpathy(read_json(file), {*OFFICIAL_SPLITS}, {*roles, left_out})
    except ValueError as error:
        raise UserError(
            f"{file} does not contain Karpathy's splits of COCO ({error}): take it from {KARPATHY_DOWNLOAD}"
        ) from error
    return [
        ImageGroup(
            f"karpathy-{split}-{official}",
            official,
            role,
            images.get((split, official), []),
            damaged.get((split, official), []),
        )
        for split, role in roles.items()
        for official in OFFICIAL_SPLITS
    ]


class Captions(NamedTuple):
    """An official captions file.

    Attributes:
        file: location of the file, for messages.
        content: bytes of the file.
        images: images in the order of their ids.
        damaged: entries of the file that are left out.
    """

    file: str
    content: bytes
    images: list[CocoImage]
    damaged: list[Damage]


def read_captions(folder: Path, official: str) -> Captions:
    """Reads the official captions of the images of ``official``, such as ``train2014``.

    Raises:
        UserError: the file is missing, damaged, or has other content; the message names the first bad entry.
    """
    file, content = read_captions_file(folder, f"annotations/captions_{official}.json")
    try:
        return Captions(file, content, *parse_captions(content, official))
    except ValueError as error:
        raise UserError(
            f"{file} is not a complete captions file of COCO ({error}): put captions_{official}.json of "
            f"{ANNOTATIONS_ZIP} there"
        ) from error


def read_captions_file(folder: Path, name: str) -> tuple[str, bytes]:
    """Returns the location of an annotations file, for messages, and its content.

    Raises:
        UserError: it is neither extracted nor in the zip, or the zip is damaged.
    """
    file, archive = folder / name, folder / ANNOTATIONS_ZIP
    if file.is_file():
        return str(file), file.read_bytes()
    if not archive.is_file():
        raise UserError(
            f"{folder} has neither {name} nor {ANNOTATIONS_ZIP}: download {ANNOTATIONS_ZIP} from "
            "https://cocodataset.org/#download and put it there, extracted or not"
        )
    with open_images(archive) as read_member:
        try:
            return f"{name} in {archive}", read_member(name)
        except (KeyError, OSError, *DAMAGED_MEMBER) as error:
            raise_if_denied(error, archive)
            raise UserError(f"{archive} has no readable {name} ({error}): download it again") from error


def find_images(folder: Path, official: str) -> Path:
    """Returns the zip or the folder with the images of an official split.

    Raises:
        UserError: neither exists.
    """
    archive, extracted = folder / f"{official}.zip", folder / official
    if archive.is_file():
        return archive
    if extracted.is_dir():
        return extracted
    raise UserError(
        f"{folder} has neither {archive.name} nor a folder {official}: download {archive.name} from "
        "https://cocodataset.org/#download and put it there, extracted or not"
    )


def split_into_parts(group: ImageGroup, container: Path, images_per_part: int) -> Iterator[Part]:
    """Divides a group of images into parts; each part stores only its own list of images.

    Args:
        group: images to divide.
        container: zip or folder with the images.
        images_per_part: max number of images of a part.
    """
    mark = mark_of(container) if container.suffix == ".zip" else "extracted"
    for number, start in enumerate(range(0, len(group.images), images_per_part)):
        images = tuple(group.images[start : start + images_per_part])
        yield Part(
            name=f"{group.name}-{number:05d}",
            fingerprint=fingerprint_of([group.split, mark, images]),
            read=partial(read_images, container, group.split, images),
        )
    if group.damaged:
        rows = [[damage.key, damage.reason, damage.detail] for damage in group.damaged]
        yield Part(f"{group.name}-damaged", fingerprint_of(rows), partial(give, tuple(group.damaged)))


def give(damaged: tuple[Damage, ...]) -> Iterator[Record | Damage]:
    """Yields the entries of a captions file that are left out."""
    yield from damaged


def read_images(container: Path, split: Split, images: tuple[CocoImage, ...]) -> Iterator[Record | Damage]:
    """Reads images of one zip or folder, in order.

    Args:
        container: a zip, which is opened once, or the folder of extracted images.
        split: split of all images.
        images: images to read.

    Raises:
        UserError: the container can't be opened, or was removed.
    """
    with open_images(container) as read_file:
        for image in images:
            key = os.path.splitext(image.file.partition("/")[2])[0]
            if not image.captions:
                yield Damage(key, "no caption")
                continue
            try:
                encoded = read_file(image.file)
            except (KeyError, OSError, *DAMAGED_MEMBER) as error:
                if not container.exists():
                    raise UserError(f"{container} is gone: bring it back and run the same command again") from error
                missing = isinstance(error, KeyError | FileNotFoundError)
                detail = reason_of(error) if isinstance(error, OSError) else str(error)
                yield Damage(key, "no image file" if missing else "damaged image file", detail)
                continue
            yield Record(key, image.captions, encoded, image.metadata, split=split)


@contextmanager
def open_images(container: Path) -> Iterator[Callable[[str], bytes]]:
    """Opens a zip or folder, and yields a function that reads a file by its name within COCO's folder.

    Raises:
        UserError: the zip can't be opened, or the folder does not exist.
    """
    if container.suffix != ".zip":
        if not container.is_dir():
            raise UserError(f"there is no folder {container} any more: bring it back and run the same command again")
        yield lambda name: (container.parent / name).read_bytes()
        return
    with ExitStack() as stack:
        try:
            archive = stack.enter_context(zipfile.ZipFile(stack.enter_context(container.open("rb"))))
        except (OSError, *DAMAGED_MEMBER) as error:
            raise_if_denied(error, container)
            raise UserError(f"{container} can't be opened ({error}): download it again") from error
        yield lambda name: read_member(archive, name, MAX_MEMBER_BYTES)
