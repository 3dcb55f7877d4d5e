"""A user's own captioned images: a folder in which ``apple.jpg`` lies beside ``apple.txt``."""

from functools import partial
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from imagen_jax.array_types import HostPixels
from imagen_jax.data.captioned_image import CaptionedImage
from imagen_jax.data.pixels import crop_centre_square, lay_on_white, resize_area, to_image, to_pixels
from imagen_jax.errors import UserError

IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


def folder_images(folder: str | Path) -> list[CaptionedImage]:
    """Lists the images of a folder and its subfolders, ordered by path.

    The first line of the ``.txt`` file of the same name is an image's caption. Images with the same caption (whatever
    its capitals) are one concept: all of them train, or all of them validate.

    Raises:
        UserError: the folder does not exist or holds no image, or an image has no caption.
    """
    if not str(folder):
        raise UserError("no folder of images is given: name it in --config.data.options.folder=FOLDER")
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}: give the folder that holds your images and their .txt captions")
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise UserError(
            f"{folder} holds no images: put some there ({' '.join(IMAGE_SUFFIXES)}), each with a .txt caption"
        )
    return [read_captioned_image(folder, file) for file in files]


def read_captioned_image(folder: Path, file: Path) -> CaptionedImage:
    """Reads the caption of one image file; the image itself is read when it is rendered."""
    caption = read_caption(file)
    status = file.stat()
    return CaptionedImage(
        key=file.relative_to(folder).as_posix(),
        caption=caption,
        concept=caption.casefold(),
        fingerprint=f"{status.st_size} {status.st_mtime_ns}",
        render=partial(render_file, file),
    )


def read_caption(file: Path) -> str:
    """Returns the first line of the ``.txt`` file beside an image.

    Raises:
        UserError: there is none, or it is empty or not UTF-8.
    """
    captions = file.with_suffix(".txt")
    try:
        lines = captions.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError as error:
        raise UserError(f"{file} has no caption: write one into the first line of {captions.name} beside it") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{captions} is not UTF-8 text: save it as UTF-8") from error
    if not lines or not lines[0].strip():
        raise UserError(f"the first line of {captions} is empty: write the caption of {file.name} there")
    return lines[0].strip()


def render_file(file: Path, resolution: int) -> HostPixels:
    """Decodes an image, turns it upright, lays it on white, crops the centre square and makes it ``resolution`` wide.

    Raises:
        UserError: the file is no image, or smaller than ``resolution``.
    """
    try:
        with Image.open(file) as image:
            pixels = crop_centre_square(lay_on_white(ImageOps.exif_transpose(image)))
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise UserError(f"{file} cannot be read as an image: repair or remove it ({error})") from error
    if len(pixels) < resolution:
        raise UserError(
            f"{file} is only {len(pixels)} pixels wide or high: give a larger one, remove it, "
            f"or set the resolution of the data to at most {len(pixels)}"
        )
    return to_pixels(resize_area(to_image(pixels), resolution))
