"""A user's captioned images: a folder, on disk or in a bucket, where ``apple.jpg`` is next to ``apple.txt``."""

import sys
from collections.abc import Collection, Sequence
from functools import partial

from imagen_jax.array_types import HostPixels
from imagen_jax.data.opened_images import DamagedImageError
from imagen_jax.data.pixels import crop_centre_square, decode_pixels, resize_area, to_image, to_pixels
from imagen_jax.data.sources.captioned_image import CaptionedImage
from imagen_jax.data.sources.image_folders import IMAGE_SUFFIXES, describe_left_out, list_image_folder
from imagen_jax.data.sources.record_fields import split_lines
from imagen_jax.errors import UserError
from imagen_jax.storage.paths import Path, read_files, to_path
from imagen_jax.storage.refusals import raise_if_denied


def folder_images(folder: str | Path) -> list[CaptionedImage]:
    """Lists the images of a folder and its subfolders, ordered by path.

    An image's caption is the first line of the ``.txt`` file of the same name. Images with the same caption, ignoring
    case, are one concept: all of them train, or all of them validate. Links to folders are followed. Images of other
    formats and links that can't be followed are counted on standard error.

    Raises:
        UserError: the folder does not exist or contains no image, or an image has no caption.
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
    return [
        # The image itself is read when it is rendered.
        CaptionedImage(
            key=file.relative_to(folder).as_posix(),
            caption=caption,
            concept=caption.casefold(),
            fingerprint=files[file],
            render=partial(render_file, file),
        )
        for file, caption in zip(images, read_captions(images, files), strict=True)
    ]


def read_captions(images: Sequence[Path], files: Collection[Path]) -> list[str]:
    """Returns the first lines of the ``.txt`` files next to images.

    Args:
        images: image files.
        files: all files of the folder.

    Raises:
        UserError: an image has no such file, or it is empty or not UTF-8.
    """
    texts = [image.with_suffix(".txt") for image in images]
    for image, text in zip(images, texts, strict=True):
        # The second test: case-insensitive disks find apple.TXT as apple.txt.
        if text not in files and not text.is_file():
            raise UserError(f"{image} has no caption: write one into the first line of {text.name} beside it")
    return [read_first_line(text, content) for text, content in zip(texts, read_files(texts), strict=True)]


def read_first_line(text: Path, content: bytes) -> str:
    """Returns the first line of a caption file.

    Raises:
        UserError: it is empty or not UTF-8.
    """
    try:
        line = split_lines(content.decode("utf-8-sig"))[0].strip()
    except UnicodeDecodeError as error:
        raise UserError(f"{text} is not UTF-8 text: save it as UTF-8") from error
    if not line:
        raise UserError(f"the first line of {text} is empty: write the caption of the image beside it there")
    return line


def render_file(file: Path, resolution: int) -> HostPixels:
    """Decodes an image upright and on white, crops its centre square, and downscales it to ``resolution``.

    Raises:
        UserError: the file is not an image, or is smaller than ``resolution``.
    """
    try:
        with file.open("rb") as stream:
            pixels = crop_centre_square(decode_pixels(stream))
    except (OSError, DamagedImageError) as error:
        raise_if_denied(error, file)
        raise UserError(f"{file} cannot be read as an image: repair or remove it ({error})") from error
    if len(pixels) < resolution:
        raise UserError(
            f"{file} is only {len(pixels)} pixels wide or high: give a larger one, remove it, "
            f"or set the resolution of the data to at most {len(pixels)}"
        )
    return to_pixels(resize_area(to_image(pixels), resolution))
