"""What a user brings to an edit, and what it means for each stage of a cascade.

a picture, a mask, numbers -> each stage's resolution -> what it begins with, what it must keep, which steps it takes

``sampling.edits`` has the ideas and their sources; here are pixels and choices.
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

Picture = str | Path | Image.Image | np.ndarray
"""What an ``Edit`` takes as image or mask: a path, Pillow's image, or an array."""


# Its fields hold pixels, and its arguments may be files: the one is made of the other, so it has an ``__init__``.
@dataclass(frozen=True, init=False)
class Edit:
    """An edit of one picture; its parts go together.

    Attributes:
        image: the picture; of one that is not square the centre square. Where the first stage is no base, it is what
            that stage makes larger.
        mask: 1 where something new is to be drawn and 0 where the picture stays, as large as it; None draws all anew.
        strength: share of the steps that is taken, from the picture noised so far; 1 begins with noise alone.
        resample: how often every stretch of steps is taken, so that what is new fits what is kept.
        invert: a caption of the picture: sampling begins with the noise that gives the picture under it.
        later_prompt: what the stages after the first are told instead of the prompt.
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
        image: Picture | None = None,
        mask: Picture | None = None,
        strength: float = 1.0,
        resample: int = 1,
        invert: str | None = None,
        later_prompt: str | None = None,
    ) -> None:
        """Takes the attributes; image and mask as a path, as Pillow's image, or as an array.

        Args:
            image: an array is uint8, (height, width) or (height, width, 1, 3 or 4).
            mask: likewise, white where something is drawn anew; or of booleans or of floats from 0 to 1, (height,
                width).
            strength: above 0, up to 1.
            resample: at least 1.
            invert: with an image alone.
            later_prompt: for cascades of several stages.

        Raises:
            UserError: an image can't be read, or the parts do not go together.
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
            raise UserError("there is no picture to edit: give one, as in --image=photo.png")
        if self.mask is not None and self.image is not None and self.mask.shape != self.image.shape[:2]:
            raise UserError(
                f"the mask has {self.mask.shape[1]}×{self.mask.shape[0]} pixels and the picture "
                f"{self.image.shape[1]}×{self.image.shape[0]}: make them equal"
            )
        if self.mask is not None and not (self.mask > 0.5).any():
            raise UserError("the mask leaves nothing to draw: paint white what is to be drawn anew")
        if self.mask is not None and not is_drawn(self.mask).any():
            raise UserError(
                "the mask is white only outside the centre square, and only the centre square is drawn: paint white "
                "a part of it, or crop image and mask around that part"
            )
        if self.invert is not None and (self.mask is not None or self.strength != 1.0):
            raise UserError("an inverted picture begins with its own noise: leave --mask and --strength out")
        if self.resample > 1 and self.mask is None:
            raise UserError("--resample makes what is drawn fit what is kept, so it takes a --mask")
        # Made here, so that a number out of range is told at once.
        _ = (end_of_trajectory(self.strength), resample(self.resample))

    @property
    def begins_with_image(self) -> bool:
        """Whether sampling begins with the picture, and not with noise alone."""
        return self.image is not None and (self.strength < 1.0 or self.invert is not None)

    @property
    def keeps_some(self) -> bool:
        """Whether a part of the picture stays as it is."""
        return self.mask is not None and not is_drawn(self.mask).all()

    @property
    def walk(self) -> MakeTrajectory:
        """Which steps are taken of those of a stage."""

        def walk(log_snrs: LogSnrs) -> Trajectory:
            return resample(self.resample)(end_of_trajectory(self.strength)(log_snrs))

        return walk

    def prompt_of(self, prompt: str, number: int) -> str:
        """What a stage is told."""
        return prompt if number == 0 or self.later_prompt is None else self.later_prompt

    def first_condition(self, low_resolution: int | None, count: int) -> SmallImages | None:
        """What the first stage makes larger: the picture, or nothing where that stage is a base."""
        square = None if low_resolution is None else self.square
        return None if low_resolution is None or square is None else repeat(resize(square, low_resolution), count)

    def pictures(self, resolution: int, count: int) -> tuple[Images | None, tuple[Images, Images] | None]:
        """What a stage begins with, and what it must keep: a picture and where."""
        square = self.square if self.begins_with_image or self.mask is not None else None
        if square is None:
            return None, None
        picture = repeat(resize(square, resolution), count)
        known = None if self.mask is None else (picture, repeat(keep_where(self.mask, resolution), count))
        return picture if self.begins_with_image else None, known

    @property
    def square(self) -> Float[np.ndarray, "size size 3"] | None:
        """The picture's centre square, in [-1, 1]; made anew each time, as it is four times as large as the picture."""
        return None if self.image is None else to_image(crop_centre_square(self.image))


NO_EDIT = Edit()


def resize(square: Float[np.ndarray, "size size 3"], resolution: int) -> Float[np.ndarray, "new new 3"]:
    """Makes a square picture so large: by exact area means where it gets smaller, else by Lanczos."""
    if square.shape[0] >= resolution:
        return resize_area(square, resolution)
    channels = [Image.fromarray(square[..., channel]) for channel in range(3)]
    larger = [each.resize((resolution, resolution), Image.Resampling.LANCZOS) for each in channels]
    return np.clip(np.stack([np.asarray(each) for each in larger], axis=-1), -1.0, 1.0)


def is_drawn(mask: Mask) -> Bool[np.ndarray, "size size"]:
    """Where the centre square of a mask is white."""
    white = ((mask > 0.5) * np.uint8(255))[..., None].repeat(3, axis=-1)
    return crop_centre_square(white)[..., 0] > 0


def keep_where(mask: Mask, resolution: int) -> Float[np.ndarray, "new new 3"]:
    """1 where a stage keeps the picture: where nothing at all of a pixel is to be drawn anew."""
    white = np.where(mask > 0.5, np.uint8(255), np.uint8(0))[..., None].repeat(3, axis=-1)
    drawn = crop_centre_square(white).astype(np.float32)
    drawn /= np.float32(255)
    return (resize(drawn, resolution) <= 1e-6).astype(np.float32)


def repeat(array: Float[np.ndarray, "height width 3"], count: int) -> Images:
    """One picture for all of a batch."""
    return jnp.repeat(jnp.asarray(array)[None], count, axis=0)


def read_picture(path: Path) -> HostPixels:
    """Reads a picture; transparency is laid on white.

    Raises:
        UserError: it can't be read.
    """
    return read_with(decode_pixels, path, "picture")


def read_mask(path: Path) -> Mask:
    """Reads a mask, see ``decode_mask``.

    Raises:
        UserError: it can't be read.
    """
    return read_with(decode_mask, path, "mask")


def read_with(decode: Callable[[bytes], np.ndarray], path: Path, name: str) -> np.ndarray:
    """Reads a file and decodes it; its name is for errors."""
    try:
        return decode(path.read_bytes())
    except (OSError, DamagedImageError) as error:
        raise_if_denied(error, path)
        raise UserError(f"the {name} {path} can't be read ({error}): give a PNG, JPEG or WebP file") from error


def pixels_of(picture: Picture) -> HostPixels:
    """The pixels of a picture, however it is given; transparency is laid on white.

    Raises:
        UserError: it can't be read, or is an array of another type or shape.
    """
    if isinstance(picture, str | Path):
        return read_picture(to_path(picture).expanduser())
    return decode_given(decode_pixels, picture, "image")


def mask_of(picture: Picture) -> Mask:
    """A mask, however it is given, see ``decode_mask``; an array of floats from 0 to 1 is one already.

    Raises:
        UserError: it can't be read, or is an array of another type or shape.
    """
    if isinstance(picture, str | Path):
        return read_mask(to_path(picture).expanduser())
    if isinstance(picture, np.ndarray) and picture.ndim == 2 and picture.dtype != np.uint8:
        if picture.dtype == bool:
            return picture.astype(np.float32)
        if np.issubdtype(picture.dtype, np.floating) and ((picture >= 0) & (picture <= 1)).all():
            return picture
        raise UserError(f"a mask is uint8, of booleans, or of floats from 0 to 1, not {picture.dtype} beyond them")
    return decode_given(decode_mask, picture, "mask")


def decode_given(decode: Callable[[bytes], np.ndarray], picture: Image.Image | np.ndarray, name: str) -> np.ndarray:
    """Decodes an image that is no file; its name is for errors."""
    try:
        return decode(encode(picture, name))
    except DamagedImageError as error:
        raise UserError(f"the {name} can't be used ({error}): convert it to RGB or to 8-bit grey") from error


def encode(picture: Image.Image | np.ndarray, name: str) -> bytes:
    """Encodes an image without loss, so that it is decoded as a file would be; its orientation comes with it.

    Raises:
        UserError: an array is not uint8, or has another shape.
    """
    if isinstance(picture, np.ndarray):
        channels = picture.shape[2] if picture.ndim == 3 else 1 if picture.ndim == 2 else 0
        if picture.dtype != np.uint8 or channels not in (1, 3, 4) or 0 in picture.shape:
            raise UserError(
                f"an array as {name} is uint8 of shape (height, width, 3), not {picture.dtype} of shape {picture.shape}"
            )
        picture = Image.fromarray(picture[..., 0] if picture.ndim == 3 and channels == 1 else picture)
    buffer = io.BytesIO()
    form = "PNG" if picture.mode in ("1", "L", "LA", "I;16", "P", "RGB", "RGBA") else "TIFF"
    picture.save(buffer, form, exif=picture.getexif())
    return buffer.getvalue()


def decode_mask(encoded: bytes) -> Mask:
    """Decodes a mask: white where something is to be drawn anew; of a transparent one what is opaque and white.

    It is turned upright as its picture is, and 16 bits count as 8 do, see ``decode_upright``.

    Raises:
        DamagedImageError: it is no image, too large, animated, has no 8-bit form, or can't be decoded.
    """
    with opened_image(encoded) as image:
        rgba = np.asarray(decode_upright(image).convert("RGBA"))
    # In whole numbers, and channel after channel: as floats a large picture would take a gigabyte and seconds.
    light = rgba[..., 0].astype(np.uint32)
    for channel in (1, 2):
        light += rgba[..., channel]
    light *= rgba[..., 3]
    return light.astype(np.float32) / np.float32(3 * 255 * 255)
