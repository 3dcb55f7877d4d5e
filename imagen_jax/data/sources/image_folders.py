"""Lists folders of images: the image files to read, and the files that are left out, counted and named."""

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import groupby
from typing import NamedTuple

from imagen_jax.data.sources.record_fields import printable
from imagen_jax.data.sources.records import Damage, Part, Record, fingerprint_of
from imagen_jax.storage.paths import Listing, Path, list_below

IMAGE_SUFFIXES = (
    *(".apng", ".avif", ".bmp", ".dib", ".gif", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".jpx"),
    *(".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"),
)
"""Suffixes of the formats in ``opened_images.FORMATS``."""

OTHER_IMAGE_SUFFIXES = (
    *(".heic", ".heif", ".hif", ".jxl", ".svg", ".svgz", ".tga", ".ico", ".icns", ".pcx", ".dds", ".exr", ".hdr"),
    *(".psd", ".psb", ".xcf", ".kra", ".eps", ".wmf", ".emf", ".jxr", ".qoi"),
    *(".dng", ".raw", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".raf", ".rw2", ".pef", ".srw"),
)
"""Suffixes of unsupported image formats: iPhone photographs, vector drawings, layered images, and camera raw files."""

NOT_READ = "image format is not read"
NOT_FOLLOWED = "link or folder is not read"
CONVERT = "convert it to PNG, JPEG or WebP"


class ImageFolder(NamedTuple):
    """The files of a folder and its subfolders.

    Attributes:
        files: all files, each with a text that changes when the file is rewritten.
        images: supported image files, ordered by path.
        left_out: images of other formats, except those with a supported image of the same name, such as camera raw
            files; and links and folders that can't be followed.
    """

    files: dict[Path, str]
    images: list[Path]
    left_out: list[Damage]


def list_image_folder(folder: Path) -> ImageFolder:
    """Lists a folder of images, without the files that operating systems add.

    Raises:
        OSError: the disk fails.
    """
    listing = list_below(folder)
    images = [file for file in listing.files if file.suffix.lower() in IMAGE_SUFFIXES]
    names = {file.with_suffix("") for file in images}
    others = [
        Damage(key_of(file, folder), NOT_READ, f"{file.suffix.lower()}: {CONVERT}")
        for file in listing.files
        if file.suffix.lower() in OTHER_IMAGE_SUFFIXES and file.with_suffix("") not in names
    ]
    return ImageFolder(listing.files, images, [*others, *left_out_of(listing, folder)])


def left_out_of(listing: Listing, folder: Path) -> list[Damage]:
    """Returns the links and folders that a listing leaves out."""
    return [Damage(key_of(path, folder), NOT_FOLLOWED, reason) for path, reason in listing.left_out.items()]


def key_of(path: Path, folder: Path) -> str:
    """Returns a file's path relative to a folder, encodable as UTF-8."""
    return printable(path.relative_to(folder).as_posix())


def left_out_part(left_out: Sequence[Damage]) -> list[Part]:
    """Returns a part that lists what a source leaves out, so that it is counted and quarantined; [] if nothing is."""
    if not left_out:
        return []
    rows = [[damage.key, damage.reason, damage.detail] for damage in left_out]
    return [Part("left-out", fingerprint_of(rows), partial(_give, tuple(left_out)))]


def _give(left_out: tuple[Damage, ...]) -> Iterator[Record | Damage]:
    yield from left_out


def describe_left_out(left_out: Sequence[Damage]) -> str:
    """Counts and names what is left out: ``"3 .heic: convert it to PNG, JPEG or WebP (a.heic and so on)"``."""

    def reason_of(damage: Damage) -> str:
        return damage.detail if damage.reason == NOT_READ else damage.reason

    summaries = []
    for reason, group in groupby(sorted(left_out, key=lambda damage: (reason_of(damage), damage.key)), reason_of):
        some = list(group)
        detail = f": {some[0].detail}" if some[0].reason == NOT_FOLLOWED else ""
        summaries.append(f"{len(some)} {reason} ({some[0].key}{detail}{' and so on' if len(some) > 1 else ''})")
    return "; ".join(summaries)
