"""A user's captioned images: a folder, on disk or in a bucket, where ``apple.jpg`` is next to ``apple.txt``."""

import sys
from collections.abc import Collection, Sequence
from functools import partial
from typing import NoReturn

from imagen_jax.array_types import HostPixels
from imagen_jax.data.opened_images import DamagedImageError
from imagen_jax.data.pixels import crop_centre_square, decode_pixels, resize_area, to_image, to_pixels
from imagen_jax.data.sources.captioned_image import CaptionedImage, FaultyImageError
from imagen_jax.data.sources.image_folders import IMAGE_SUFFIXES, describe_left_out, list_image_folder
from imagen_jax.data.sources.record_fields import split_lines
from imagen_jax.errors import UserError
from imagen_jax.storage.paths import Path, read_files, to_path
from imagen_jax.storage.refusals import raise_if_denied


def folder_images(folder: str | Path) -> list[CaptionedImage]:
    """Lists the images of a folder and its subfolders, ordered by path.

    An image's caption is the first line of the ``.txt`` file of the same name. Images with the same caption, ignoring
    case, are one concept: all of them train, or all of them validate. Links to folders are followed. Images of other
    formats and links that can't be followed are counted on standard error. An image without a usable caption is listed
    with an empty one, and its ``render`` raises the error: so one error names all faulty images.

    Raises:
        UserError: the folder does not exist or contains no image.
    """
    if not str(folder):
        raise UserError("no folder of images is given: name it in --config.data.options.folder=FOLDER")
    folder = to_path(folder).expanduser()
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}: give the folder with your images and their .txt captions")
    files, images, left_out = list_image_folder(folder)
    summary = describe_left_out(left_out)
    if not images:
        why = f" but {summary}" if summary else ""
        raise UserError(
            f"{folder} has no images{why}: put some there ({' '.join(IMAGE_SUFFIXES)}), each with a .txt caption"
        )
    if summary:
        print(f"{folder}: {len(left_out)} left out: {summary}", file=sys.stderr, flush=True)
    listed = []
    for file, caption in zip(images, read_captions(images, files), strict=True):
        key = file.relative_to(folder).as_posix()
        if isinstance(caption, FaultyImageError):
            listed.append(CaptionedImage(key, "", key, files[file], partial(raise_fault, caption)))
        else:
            # The image itself is read when it is rendered.
            listed.append(CaptionedImage(key, caption, caption.casefold(), files[file], partial(render_file, file)))
    return listed


def read_captions(images: Sequence[Path], files: Collection[Path]) -> list[str | FaultyImageError]:
    """Returns the first lines of the ``.txt`` files next to images, and an error for each unusable one.

    Args:
        images: image files.
        files: all files of the folder.
    """
    texts = [image.with_suffix(".txt") for image in images]
    # The second test: case-insensitive disks find apple.TXT as apple.txt.
    found = [text for text in texts if text in files or text.is_file()]
    contents = dict(zip(found, read_files(found), strict=True))
    return [
        read_first_line(text, contents[text])
        if text in contents
        else FaultyImageError(
            f"{image} has no caption: write one into the first line of {text.name} beside it", "no caption"
        )
        for image, text in zip(images, texts, strict=True)
    ]


def read_first_line(text: Path, content: bytes) -> str | FaultyImageError:
    """Returns the first line of a caption file, or an error if it is empty or not UTF-8."""
    try:
        line = split_lines(content.decode("utf-8-sig"))[0].strip()
    except UnicodeDecodeError:
        return FaultyImageError(f"{text} is not UTF-8 text: save it as UTF-8", "the caption is not UTF-8")
    if not line:
        return FaultyImageError(
            f"the first line of {text} is empty: write the caption of the image beside it there", "empty caption"
        )
    return line


def raise_fault(fault: FaultyImageError, resolution: int) -> NoReturn:
    """Raises the error of an image that has no usable caption, as ``render_file`` does for an unusable image."""
    raise fault


def render_file(file: Path, resolution: int) -> HostPixels:
    """Decodes an image upright and on white, crops its centre square, and downscales it to ``resolution``.

    Raises:
        FaultyImageError: the file is not an image, or is smaller than ``resolution``.
        UserError: the user may not read the file.
    """
    try:
        with file.open("rb") as stream:
            pixels = crop_centre_square(decode_pixels(stream))
    except (OSError, DamagedImageError) as error:
        raise_if_denied(error, file)
        raise FaultyImageError(
            f"{file} cannot be read as an image: repair or remove it ({error})", "not readable as an image"
        ) from error
    if len(pixels) < resolution:
        raise FaultyImageError(
            f"{file} is only {len(pixels)} pixels wide or high: give a larger one, remove it, "
            f"or set the resolution of the data to at most {len(pixels)}",
            f"less than {resolution} px",
        )
    return to_pixels(resize_area(to_image(pixels), resolution))
