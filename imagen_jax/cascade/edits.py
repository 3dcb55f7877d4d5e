"""Reads the image, mask and options of an edit, and converts them to each stage's resolution.

an image, a mask, numbers -> each stage's resolution -> its start image, its known pixels, its trajectory

``sampling.edits`` explains the methods and cites the papers; this module handles pixels and options.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float
from PIL import Image

from imagen_jax.array_types import HostPixels, Images, SmallImages
from imagen_jax.data.opened_images import DamagedImageError, opened_image
from imagen_jax.data.pixels import crop_centre_square, decode_pixels, decode_upright, resize_area, to_image
from imagen_jax.errors import UserError, names_its_arguments
from imagen_jax.sampling.edits import MakeTrajectory, Trajectory, end_of_trajectory, resample
from imagen_jax.sampling.spacings import LogSnrs
from imagen_jax.storage.paths import Path, to_path
from imagen_jax.storage.refusals import raise_if_denied

Mask = Float[np.ndarray, "mask_height mask_width"]

ImageInput = str | Path | Image.Image | np.ndarray
"""An image or mask as ``Edit`` accepts it: a path, a Pillow image, or an array."""


# ``__init__`` is written by hand, because it converts its arguments, which may be files, to pixels.
@dataclass(frozen=True, init=False)
class Edit:
    """An edit of one image.

    Attributes:
        image: uint8, ``(height, width, 3)``; the stages use its centre square. If the first stage is a super-resolution
            stage, it is also that stage's low-resolution image.
        mask: ``(height, width)`` of the image, in [0, 1]: above 0.5 the image is sampled again, elsewhere it is kept.
            None samples all of it.
        strength: fraction of the steps that are taken, above 0 and up to 1. They start from the image noised to that
            level; 1 starts from pure noise.
        resample: number of passes over each segment of steps (RePaint's resampling), at least 1; 1 resamples nothing.
        invert: a caption of the image. Sampling starts from the noise that DDIM inversion finds with this caption.
        later_prompt: prompt of the stages after the first, instead of the request's.
    """

    image: HostPixels | None
    mask: Mask | None
    strength: float
    resample: int
    invert: str | None
    later_prompt: str | None

    @names_its_arguments
    def __init__(
        self,
        image: ImageInput | None = None,
        mask: ImageInput | None = None,
        strength: float = 1.0,
        resample: int = 1,
        invert: str | None = None,
        later_prompt: str | None = None,
    ) -> None:
        """Converts image and mask to pixels, and checks that the arguments are consistent.

        Args:
            image: a path, a Pillow image, or a uint8 array, (height, width) or (height, width, 1, 3 or 4).
            mask: a path, a Pillow image, or a uint8 array of those shapes, white where the image is sampled again; or
                an array of booleans or of floats from 0 to 1, (height, width).
            strength: fraction of the steps that are taken, above 0 and up to 1.
            resample: number of passes over each segment of steps, at least 1.
            invert: caption of the image; not with ``mask`` or ``strength``.
            later_prompt: prompt of the later stages, for cascades of several stages.

        Raises:
            UserError: an image can't be read, a number is out of range, or the arguments contradict each other.
        """
        parts: dict[str, Any] = {
            "image": None if image is None else pixels_of(image),
            "mask": None if mask is None else mask_of(mask),
        }
        parts |= {"strength": strength, "resample": resample, "invert": invert, "later_prompt": later_prompt}
        for name, value in parts.items():
            object.__setattr__(self, name, value)
        self._check()

    def _check(self) -> None:
        if self.image is None and (self.mask is not None or self.strength != 1.0 or self.invert is not None):
            raise UserError("there is no image to edit: give one, as in --image=photo.png")
        if self.mask is not None and self.image is not None and self.mask.shape != self.image.shape[:2]:
            raise UserError(
                f"--mask has {self.mask.shape[1]}×{self.mask.shape[0]} pixels and --image "
                f"{self.image.shape[1]}×{self.image.shape[0]}: give both the same size"
            )
        if self.mask is not None and not (self.mask > 0.5).any():
            raise UserError("--mask has no white pixels, so nothing is sampled: paint the part to sample again white")
        if self.mask is not None and not is_sampled(self.mask).any():
            raise UserError(
                "--mask is white only outside the centre square, and only the centre square is sampled: paint a part "
                "of it white, or crop image and mask around the white part"
            )
        if self.invert is not None and (self.mask is not None or self.strength != 1.0):
            raise UserError("--invert can't be combined with --mask or --strength: leave them out")
        if self.resample > 1 and self.mask is None:
            raise UserError("--resample has no effect without --mask: give a --mask too")
        # Both functions check the range of their number, so that the error comes before sampling.
        _ = (end_of_trajectory(self.strength), resample(self.resample))

    @property
    def begins_with_image(self) -> bool:
        """Whether sampling starts from the image, not from pure noise."""
        return self.image is not None and (self.strength < 1.0 or self.invert is not None)

    @property
    def keeps_some(self) -> bool:
        """Whether the mask keeps a part of the image's centre square."""
        return self.mask is not None and not is_sampled(self.mask).all()

    @property
    def make_trajectory(self) -> MakeTrajectory:
        """The function that makes a stage's trajectory from the log-SNRs of its spacing."""

        def make_trajectory(log_snrs: LogSnrs) -> Trajectory:
            return resample(self.resample)(end_of_trajectory(self.strength)(log_snrs))

        return make_trajectory

    def prompt_of(self, prompt: str, number: int) -> str:
        """Returns the prompt of stage ``number``: ``later_prompt`` for the later stages, if there is one."""
        return prompt if number == 0 or self.later_prompt is None else self.later_prompt

    def first_condition(self, low_resolution: int | None, count: int) -> SmallImages | None:
        """Returns ``count`` low-resolution images for the first stage; None if it is a base or there is no image."""
        square = None if low_resolution is None else self.square
        return None if low_resolution is None or square is None else repeat(resize(square, low_resolution), count)

    def images(self, resolution: int, count: int) -> tuple[Images | None, tuple[Images, Images] | None]:
        """Returns a stage's start images, and its known images with the mask of kept pixels; each may be None."""
        square = self.square if self.begins_with_image or self.mask is not None else None
        if square is None:
            return None, None
        image = repeat(resize(square, resolution), count)
        known = None if self.mask is None else (image, repeat(keep_where(self.mask, resolution), count))
        return image if self.begins_with_image else None, known

    @property
    def square(self) -> Float[np.ndarray, "size size 3"] | None:
        """The image's centre square, in [-1, 1]. Not cached: float32 pixels take four times the memory of uint8."""
        return None if self.image is None else to_image(crop_centre_square(self.image))


NO_EDIT = Edit()


def resize(square: Float[np.ndarray, "size size 3"], resolution: int) -> Float[np.ndarray, "new new 3"]:
    """Resizes a square image in [-1, 1]: downsamples by area averaging, upsamples with Lanczos."""
    if square.shape[0] >= resolution:
        return resize_area(square, resolution)
    channels = [Image.fromarray(square[..., channel]) for channel in range(3)]
    larger = [each.resize((resolution, resolution), Image.Resampling.LANCZOS) for each in channels]
    return np.clip(np.stack([np.asarray(each) for each in larger], axis=-1), -1.0, 1.0)


def is_sampled(mask: Mask) -> Bool[np.ndarray, "size size"]:
    """Returns where the centre square of a mask is white, so that the image is sampled again there."""
    white = ((mask > 0.5) * np.uint8(255))[..., None].repeat(3, axis=-1)
    return crop_centre_square(white)[..., 0] > 0


def keep_where(mask: Mask, resolution: int) -> Float[np.ndarray, "new new 3"]:
    """Returns 1 where a stage keeps the image: at its pixels that contain no white of the mask."""
    white = np.where(mask > 0.5, np.uint8(255), np.uint8(0))[..., None].repeat(3, axis=-1)
    sampled = crop_centre_square(white).astype(np.float32)
    sampled /= np.float32(255)
    return (resize(sampled, resolution) <= 1e-6).astype(np.float32)


def repeat(array: Float[np.ndarray, "height width 3"], count: int) -> Images:
    """Repeats one image ``count`` times, as a batch."""
    return jnp.repeat(jnp.asarray(array)[None], count, axis=0)


def read_picture(path: Path) -> HostPixels:
    """Reads an image file; transparency is composited onto white.

    Raises:
        UserError: it can't be read.
    """
    return read_with(decode_pixels, path, "image")


def read_mask(path: Path) -> Mask:
    """Reads a mask file, decoded by ``decode_mask``.

    Raises:
        UserError: it can't be read.
    """
    return read_with(decode_mask, path, "mask")


def read_with(decode: Callable[[bytes], np.ndarray], path: Path, name: str) -> np.ndarray:
    """Reads and decodes a file; error messages call it ``name``.

    Raises:
        UserError: it can't be read or decoded.
    """
    try:
        return decode(path.read_bytes())
    except (OSError, DamagedImageError) as error:
        raise_if_denied(error, path)
        raise UserError(f"the {name} {path} can't be read ({error}): give a PNG, JPEG or WebP file") from error


def pixels_of(image: ImageInput) -> HostPixels:
    """Converts a path, a Pillow image or an array to pixels; transparency is composited onto white.

    Raises:
        UserError: it can't be read, or is an array of another type or shape.
    """
    if isinstance(image, str | Path):
        return read_picture(to_path(image).expanduser())
    return decode_given(decode_pixels, image, "image")


def mask_of(image: ImageInput) -> Mask:
    """Converts a path, a Pillow image or an array to a mask in [0, 1].

    An array of floats from 0 to 1 is returned unchanged, and booleans become 0 and 1. Others go through
    ``decode_mask``.

    Raises:
        UserError: it can't be read, or is an array of another type or shape.
    """
    if isinstance(image, str | Path):
        return read_mask(to_path(image).expanduser())
    if isinstance(image, np.ndarray) and image.ndim == 2 and image.dtype != np.uint8:
        if image.dtype == bool:
            return image.astype(np.float32)
        if np.issubdtype(image.dtype, np.floating) and ((image >= 0) & (image <= 1)).all():
            return image
        raise UserError(f"a mask must be uint8, boolean, or floats from 0 to 1, not {image.dtype} with other values")
    return decode_given(decode_mask, image, "mask")


def decode_given(decode: Callable[[bytes], np.ndarray], image: Image.Image | np.ndarray, name: str) -> np.ndarray:
    """Decodes a Pillow image or an array; error messages call it ``name``.

    Raises:
        UserError: it can't be decoded, or is an array of another type or shape.
    """
    try:
        return decode(encode(image, name))
    except DamagedImageError as error:
        raise UserError(f"the {name} can't be used ({error}): convert it to RGB or to 8-bit grey") from error


def encode(image: Image.Image | np.ndarray, name: str) -> bytes:
    """Encodes an image losslessly with its EXIF orientation, so that it can be decoded like a file.

    Raises:
        UserError: an array is not uint8, or has another shape.
    """
    if isinstance(image, np.ndarray):
        channels = image.shape[2] if image.ndim == 3 else 1 if image.ndim == 2 else 0
        if image.dtype != np.uint8 or channels not in (1, 3, 4) or 0 in image.shape:
            raise UserError(
                f"the {name} must be uint8 of shape (height, width, 3), not {image.dtype} of shape {image.shape}"
            )
        image = Image.fromarray(image[..., 0] if image.ndim == 3 and channels == 1 else image)
    buffer = io.BytesIO()
    form = "PNG" if image.mode in ("1", "L", "LA", "I;16", "P", "RGB", "RGBA") else "TIFF"
    image.save(buffer, form, exif=image.getexif())
    return buffer.getvalue()


def decode_mask(encoded: bytes) -> Mask:
    """Decodes a mask to brightness times opacity, in [0, 1]; opaque white (1) is sampled again.

    ``decode_upright`` applies the orientation, as it does for the image, and converts 16 bits to 8.

    Raises:
        DamagedImageError: it is no image, too large, animated, has no 8-bit form, or can't be decoded.
    """
    with opened_image(encoded) as image:
        rgba = np.asarray(decode_upright(image).convert("RGBA"))
    # Integers, one channel at a time: a large mask in floats would take a gigabyte and several seconds.
    light = rgba[..., 0].astype(np.uint32)
    for channel in (1, 2):
        light += rgba[..., channel]
    light *= rgba[..., 3]
    return light.astype(np.float32) / np.float32(3 * 255 * 255)
