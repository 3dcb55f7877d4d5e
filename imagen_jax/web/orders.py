"""What a browser asks for, checked: nothing of it is trusted."""

import base64
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from imagen_jax.cascade.edits import NO_EDIT, Edit, decode_mask
from imagen_jax.cascade.stage_sampler import SamplingStage
from imagen_jax.data.opened_images import DamagedImageError, opened_image
from imagen_jax.data.pixels import decode_pixels
from imagen_jax.errors import UserError
from imagen_jax.runtime.seeds import check_seed
from imagen_jax.sampling.sampler import STEP_RULES
from imagen_jax.sampling.spacings import SPACINGS
from imagen_jax.web.clients import UPLOAD_SECONDS

FIELDS = {"prompt", "negative_prompt", "seed", "stages", "image", "mask", "strength", "resample"}
MAX_PROMPT_LENGTH = 2000
MAX_SIDE = 4096
"""Pixels of a picture or mask that is sent."""


class Limits(NamedTuple):
    """How much one page may ask for.

    Attributes:
        steps: of each stage.
        waiting: jobs in the queue.
        waiting_bytes: of the pictures and masks that they hold, as they were sent.
        body: bytes of a request.
        bodies: requests that are read at once.
        body_seconds: in which a body must arrive.
        kept: finished jobs in the history.
        kept_bytes: of their pictures.
        patience: seconds for which an order is kept when its last follower has left.
        patience_at_first: seconds for which it is kept when nobody has ever followed it.
    """

    steps: int = 250
    waiting: int = 8
    waiting_bytes: int = 64 * 2**20
    body: int = 24 * 2**20
    bodies: int = 4
    body_seconds: float = UPLOAD_SECONDS
    kept: int = 60
    kept_bytes: int = 128 * 2**20
    patience: float = 30.0
    patience_at_first: float = 600.0


class Order(NamedTuple):
    """One picture that is asked for.

    Attributes:
        prompt: what it shows.
        negative_prompt: what guidance leads away from; None for nothing.
        seed: of the noise.
        settings: keys of ``config.sampling``, each with one value for each stage.
        told: the settings as the history shows them and the page can ask for again.
        image: the picture that it begins with, as it was sent, for a small file may fill gigabytes when it is decoded;
            empty for none.
        mask: of that picture, likewise.
        strength: see ``Edit``.
        resample: likewise.
    """

    prompt: str
    negative_prompt: str | None
    seed: int
    settings: dict[str, list[Any]]
    told: dict[str, Any]
    image: bytes = b""
    mask: bytes = b""
    strength: float = 1.0
    resample: int = 1

    @property
    def size(self) -> int:
        """Bytes of the picture and the mask that it holds."""
        return len(self.image) + len(self.mask)

    def without_pictures(self) -> "Order":
        """What is kept of an order that is over."""
        return self._replace(image=b"", mask=b"")

    def decode_edit(self) -> Edit:
        """Decodes the picture and the mask.

        Raises:
            UserError: one of them can't be decoded, or the mask does not fit the picture or leaves nothing to draw.
        """
        if not self.image:
            return NO_EDIT
        image = decode_sent(self.image, "picture", decode_pixels)
        mask = decode_sent(self.mask, "mask", decode_mask) if self.mask else None
        return Edit(image, mask, self.strength, self.resample)


def describe_stages(stages: Sequence[SamplingStage], configs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What the page shows of each stage: its size, and the settings it has when nothing is asked for.

    Args:
        stages: of the cascade.
        configs: ``config.sampling`` of each.
    """
    named = ("guidance", "steps", "sampler", "spacing", "thresholding", "augmentation_level")
    return [
        {
            "resolution": stage.resolution,
            "low_resolution": stage.low_resolution,
            **{name: config[name] for name in named},
        }
        for stage, config in zip(stages, configs, strict=True)
    ]


def read_order(asked: Any, stages: Sequence[SamplingStage], limits: Limits) -> Order:
    """Reads an order.

    Args:
        asked: the JSON of the request.
        stages: of the cascade.
        limits: what may be asked for.

    Raises:
        UserError: something is missing, of another type or out of its range; says what.
    """
    if not isinstance(asked, dict):
        raise UserError("an order is a JSON object")
    for name in sorted(asked.keys() - FIELDS):
        raise UserError(f"an order has no {shown(name)}: it has {', '.join(sorted(FIELDS))}")
    prompt = read_text(asked, "prompt")
    negative = read_text(asked, "negative_prompt") or None
    seed = asked.get("seed", 0)
    # JSON has no whole numbers of its own.
    seed = check_seed(int(seed) if isinstance(seed, float) and seed.is_integer() else seed)
    settings = read_settings(asked.get("stages", []), len(stages), limits)
    image, mask = read_pictures(asked)
    if not prompt and not image:
        raise UserError("there is nothing to draw: write a prompt")
    told = {"prompt": prompt, "negative_prompt": negative or "", "seed": seed, "stages": asked.get("stages", [])}
    if not image:
        return Order(prompt, negative, seed, settings, told)
    strength = float(read_number(asked.get("strength", 1.0), "strength", 0.01, 1))
    resample = int(read_number(asked.get("resample", 1), "resample", 1, 10, whole=True)) if mask else 1
    told |= {"strength": strength, "resample": resample, "edited": "mask" if mask else "image"}
    return Order(prompt, negative, seed, settings, told, image, mask, strength, resample)


def read_text(asked: Mapping[str, Any], name: str) -> str:
    """A text of the order, without the space around it."""
    text = asked.get(name, "")
    if not isinstance(text, str) or len(text) > MAX_PROMPT_LENGTH:
        raise UserError(f"the {name.replace('_', ' ')} is a text of up to {MAX_PROMPT_LENGTH} characters")
    # Lone surrogates, which JSON can hold and UTF-8 can't.
    return text.encode("utf-8", "replace").decode().strip()


def read_number(value: Any, name: str, least: float | int, most: float | int, whole: bool = False) -> float | int:
    """A number of the order."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise UserError(f"{name} lies between {least:g} and {most:g}, not at {shown(value)}")
    if whole and value != int(value):
        raise UserError(f"{name} is a whole number, not {shown(value)}")
    return value


def read_settings(asked: Any, stages: int, limits: Limits) -> dict[str, list[Any]]:
    """The settings of each stage; those that are not asked for are the stage's own."""
    if not isinstance(asked, list) or len(asked) not in (0, stages) or not all(isinstance(one, dict) for one in asked):
        raise UserError(f"the settings are a list of one object for each of {stages} stage(s)")
    readers = {
        "guidance": lambda value: float(read_number(value, "guidance", -100, 100)),
        "steps": lambda value: int(read_number(value, "steps", 1, limits.steps, whole=True)),
        "augmentation_level": lambda value: float(read_number(value, "the augmentation level", 0, 1)),
        "sampler": lambda value: read_choice(value, "sampler", STEP_RULES),
        "spacing": lambda value: read_choice(value, "spacing", SPACINGS),
        "thresholding": lambda value: read_choice(value, "thresholding", ("none", "static", "dynamic")),
    }
    for name in sorted({name for one in asked for name in one} - readers.keys()):
        raise UserError(f"unknown setting {shown(name)} of a stage: known are {', '.join(readers)}")
    settings = {}
    for name, read in readers.items():
        values = [one[name] for one in asked if name in one]
        if values and len(values) != stages:
            raise UserError(f"{name} is given for {len(values)} of {stages} stages: give it for all")
        if values:
            settings[name] = [read(value) for value in values]
    return settings


def shown(value: Any) -> str:
    """A value as a sentence shows it: its beginning, where it is long."""
    return textwrap.shorten(ascii(value), 60, placeholder="…")


def read_choice(value: Any, name: str, known: Any) -> str:
    """One of several names."""
    if value not in list(known):
        raise UserError(f"{name} is one of {', '.join(known)}, not {shown(value)}")
    return value


def read_pictures(asked: Mapping[str, Any]) -> tuple[bytes, bytes]:
    """The picture and the mask that an order begins with, as files that are not decoded yet; empty where there is none.

    Only their headers are read here. What else may be wrong with them is told when the order is drawn.
    """
    if not asked.get("image"):
        for name in ("mask", "strength", "resample"):
            if asked.get(name):
                raise UserError(f"{name} has no effect without an image: choose one to begin with, or leave it out")
        return b"", b""
    image, size = read_data_url(asked["image"], "picture")
    if not asked.get("mask"):
        return image, b""
    mask, mask_size = read_data_url(asked["mask"], "mask")
    # In any order of the sides, for an orientation in the file may exchange them.
    if sorted(size) != sorted(mask_size):
        raise UserError(
            f"the mask has {mask_size[0]}×{mask_size[1]} pixels and the picture {size[0]}×{size[1]}: make them equal"
        )
    return image, mask


def read_data_url(url: Any, name: str) -> tuple[bytes, tuple[int, int]]:
    """An image file that a browser sent as ``data:image/png;base64,…``, and the width and height in its header.

    Raises:
        UserError: it is no image, or larger than ``MAX_SIDE``.
    """
    try:
        head, _, content = url.partition(",")
        if not head.startswith("data:image/"):
            raise ValueError("no data URL of an image")
        encoded = base64.b64decode(content, validate=True)
        with opened_image(encoded) as image:
            width, height = image.size
    except (AttributeError, ValueError) as error:
        raise UserError(f"the {name} can't be read ({error}): choose a PNG, JPEG or WebP file") from error
    if max(width, height) > MAX_SIDE:
        raise UserError(f"the {name} has {width}×{height} pixels: make it {MAX_SIDE} at most a side")
    return encoded, (width, height)


def decode_sent(encoded: bytes, name: str, decode: Callable[[bytes], np.ndarray]) -> np.ndarray:
    """Decodes a file that was sent; its name is for errors.

    Raises:
        UserError: it can't be decoded.
    """
    try:
        return decode(encoded)
    except DamagedImageError as error:
        raise UserError(f"the {name} can't be read ({error}): choose a PNG, JPEG or WebP file") from error
