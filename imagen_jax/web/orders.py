"""Parses and validates orders from browsers; no part of an order is trusted."""

import base64
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from imagen_jax.cascade.edits import NO_EDIT, Edit, decode_mask
from imagen_jax.cascade.manipulations import MAX_DIFFERENCE
from imagen_jax.cascade.stage import Stage
from imagen_jax.data.opened_images import DamagedImageError, opened_image
from imagen_jax.data.pixels import decode_pixels
from imagen_jax.errors import UserError
from imagen_jax.runtime.seeds import check_seed
from imagen_jax.sampling.sampler import STEP_RULES
from imagen_jax.sampling.spacings import SPACINGS
from imagen_jax.web.clients import UPLOAD_SECONDS

EDIT_FIELDS = ("mask", "strength", "resample")
FIELDS = {"prompt", "negative_prompt", "seed", "stages", "image", "how", "from_text", "share", *EDIT_FIELDS}
VARIATION, TEXT_DIFFERENCE = "variation", "text_difference"
"""Values of ``how``: what a decoder of CLIP's embeddings does with an image."""

MAX_PROMPT_LENGTH = 2000
MAX_SIDE = 4096
"""Max width and height of an uploaded image or mask, in pixels."""


class Limits(NamedTuple):
    """Limits of a page's requests.

    Attributes:
        steps: max number of denoising steps of each stage.
        waiting: max number of waiting jobs.
        waiting_bytes: max total size in bytes of the waiting jobs' images and masks, as uploaded.
        body: max size of a request's body in bytes.
        bodies: max number of request bodies that are read at once.
        body_seconds: time limit in seconds for the arrival of a body.
        kept: max number of finished jobs in the history.
        kept_bytes: max total size of the finished jobs' images in bytes.
        patience: time in seconds before an order is dropped after its last follower has left.
        patience_at_first: time in seconds before an order is dropped that has had no follower yet.
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
    """A validated request for one image.

    Attributes:
        prompt: the prompt.
        negative_prompt: the negative prompt; None for the stages' null prompt.
        seed: seed of the noise.
        settings: values of keys of ``config.sampling``, one for each stage.
        page_settings: settings for the history, in the form in which the page sends them.
        image: file of the image to edit, as uploaded; empty for none. It is decoded late, because a small file may
            decode to gigabytes.
        mask: file of the image's mask, as uploaded; empty for none.
        strength: share of the denoising steps that is taken, from 0.01 to 1; see ``Edit``.
        resample: number of times that each stretch of steps is taken, from 1 to 10; see ``Edit``.
        how: ``VARIATION`` or ``TEXT_DIFFERENCE``; "" for an edit.
        from_text: caption of the image, for a text difference towards the prompt; "" for nothing.
        share: share of the text difference, from 0 to 0.5.
    """

    prompt: str
    negative_prompt: str | None
    seed: int
    settings: dict[str, list[Any]]
    page_settings: dict[str, Any]
    image: bytes = b""
    mask: bytes = b""
    strength: float = 1.0
    resample: int = 1
    how: str = ""
    from_text: str = ""
    share: float = 0.4

    @property
    def size(self) -> int:
        """The total size of the uploaded image and mask in bytes."""
        return len(self.image) + len(self.mask)

    def without_files(self) -> "Order":
        """Returns the order without the uploaded image and mask, for jobs that are over."""
        return self._replace(image=b"", mask=b"")

    def decode_edit(self) -> Edit:
        """Decodes the image and the mask; returns ``NO_EDIT`` without an image.

        Raises:
            UserError: one of them can't be decoded, the mask does not fit the image, or it leaves nothing to sample.
        """
        if not self.image or self.how:
            return NO_EDIT
        image = decode_sent(self.image, "image", decode_pixels)
        mask = decode_sent(self.mask, "mask", decode_mask) if self.mask else None
        return Edit(image, mask, self.strength, self.resample)


def describe_stages(stages: Sequence[Stage], configs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns each stage's resolutions and default sampling settings for the page.

    Args:
        stages: stages of the cascade.
        configs: ``config.sampling`` of each stage.
    """
    named = ("guidance", "steps", "sampler", "spacing", "thresholding", "augmentation_level")
    return [
        {
            "resolution": stage.resolution,
            "is_prior": stage.makes_vectors,
            "low_resolution": stage.low_resolution,
            **{name: config[name] for name in named},
        }
        for stage, config in zip(stages, configs, strict=True)
    ]


def read_order(requested: Any, stages: Sequence[Stage], limits: Limits) -> Order:
    """Parses and validates an order.

    Args:
        requested: parsed JSON of the request.
        stages: stages of the cascade.
        limits: limits of a page's requests.

    Raises:
        UserError: a field is missing, unknown, of the wrong type or out of range; the message names it.
    """
    if not isinstance(requested, dict):
        raise UserError("an order must be a JSON object")
    for name in sorted(requested.keys() - FIELDS):
        raise UserError(f"an order has no field {shown(name)}: its fields are {', '.join(sorted(FIELDS))}")
    prompt = read_text(requested, "prompt")
    negative = read_text(requested, "negative_prompt") or None
    seed = requested.get("seed", 0)
    # JSON does not distinguish integers from floats.
    seed = check_seed(int(seed) if isinstance(seed, float) and seed.is_integer() else seed)
    how = read_how(requested, stages)
    of_stages = requested.get("stages", [])
    settings = read_settings(of_stages, len(stages), limits)
    if how == TEXT_DIFFERENCE and "sampler" in settings:
        of_stages = with_ddim(of_stages, stages)
        settings["sampler"] = [one["sampler"] for one in of_stages]
    image, mask = read_images(requested)
    if not prompt and not image:
        raise UserError("there is nothing to sample: write a prompt")
    page_settings = {
        "prompt": prompt,
        "negative_prompt": negative or "",
        "seed": seed,
        "stages": of_stages,
    }
    if not image:
        return Order(prompt, negative, seed, settings, page_settings)
    if how:
        from_text = read_text(requested, "from_text")
        share = float(read_number(requested.get("share", 0.4), "share", 0, MAX_DIFFERENCE))
        page_settings |= {"edited": how, "from_text": from_text, "share": share}
        return Order(prompt, negative, seed, settings, page_settings, image, how=how, from_text=from_text, share=share)
    strength = float(read_number(requested.get("strength", 1.0), "strength", 0.01, 1))
    resample = int(read_number(requested.get("resample", 1), "resample", 1, 10, whole=True)) if mask else 1
    page_settings |= {"strength": strength, "resample": resample, "edited": "mask" if mask else "image"}
    return Order(prompt, negative, seed, settings, page_settings, image, mask, strength, resample)


def can_manipulate(stages: Sequence[Stage]) -> bool:
    """Returns whether the first stage of images is a decoder of CLIP's embeddings."""
    return any(stage.image_vector for stage in stages if not stage.makes_vectors and stage.low_resolution is None)


def read_how(requested: Mapping[str, Any], stages: Sequence[Stage]) -> str:
    """Returns how the image is manipulated; "" for an edit or no image.

    Raises:
        UserError: a field does not belong to it, or the stages can't do it.
    """
    how = read_choice(requested.get("how", ""), "how", ("", VARIATION, TEXT_DIFFERENCE))
    for name in ("from_text", "share"):
        if requested.get(name) and how != TEXT_DIFFERENCE:
            raise UserError(f"{name} has no effect without how={TEXT_DIFFERENCE}: leave it out")
    if not how:
        if requested.get("image") and any(stage.makes_vectors for stage in stages):
            raise UserError(f"a cascade with a prior can't edit an image: choose how={VARIATION} or {TEXT_DIFFERENCE}")
        return ""
    if not can_manipulate(stages):
        raise UserError(f"how={how} needs a decoder of CLIP's embeddings, and there is none: leave it out")
    if not requested.get("image"):
        raise UserError(f"how={how} has no effect without an image: choose one")
    for name in EDIT_FIELDS:
        if requested.get(name):
            raise UserError(f"{name} has no effect with how={how}: leave it out")
    if how == TEXT_DIFFERENCE and not read_text(requested, "prompt"):
        raise UserError("a text difference leads to the prompt, and there is none: write one")
    return how


def with_ddim(settings: Sequence[Mapping[str, Any]], stages: Sequence[Stage]) -> list[Mapping[str, Any]]:
    """Returns the settings of all stages, with the sampler "ddim" for the decoder.

    A text difference starts from the noise that DDIM found for the image, and DDIM alone leads from it to the image.
    """
    decoder = next(index for index, stage in enumerate(stages) if not stage.makes_vectors)
    return [{**one, "sampler": "ddim"} if index == decoder else one for index, one in enumerate(settings)]


def read_text(requested: Mapping[str, Any], name: str) -> str:
    """Returns a text field of the order without surrounding whitespace; "" if the field is missing."""
    text = requested.get(name, "")
    if not isinstance(text, str) or len(text) > MAX_PROMPT_LENGTH:
        raise UserError(f"the {name.replace('_', ' ')} must be a text of at most {MAX_PROMPT_LENGTH} characters")
    # Replace lone surrogates, which JSON can contain and UTF-8 can't.
    return text.encode("utf-8", "replace").decode().strip()


def read_number(value: Any, name: str, minimum: float | int, maximum: float | int, whole: bool = False) -> float | int:
    """Returns a number of the order after checking its type and range."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not minimum <= value <= maximum:
        raise UserError(f"{name} must be between {minimum:g} and {maximum:g}, not {shown(value)}")
    if whole and value != int(value):
        raise UserError(f"{name} must be a whole number, not {shown(value)}")
    return value


def read_settings(requested: Any, stages: int, limits: Limits) -> dict[str, list[Any]]:
    """Returns the settings of the stages by name, one value for each stage; omitted settings are left out."""
    if (
        not isinstance(requested, list)
        or len(requested) not in (0, stages)
        or not all(isinstance(one, dict) for one in requested)
    ):
        raise UserError(f"stages must be a list of one object for each of {stages} stage(s)")
    readers = {
        "guidance": lambda value: float(read_number(value, "guidance", -100, 100)),
        "steps": lambda value: int(read_number(value, "steps", 1, limits.steps, whole=True)),
        "augmentation_level": lambda value: float(read_number(value, "the augmentation level", 0, 1)),
        "sampler": lambda value: read_choice(value, "sampler", STEP_RULES),
        "spacing": lambda value: read_choice(value, "spacing", SPACINGS),
        "thresholding": lambda value: read_choice(value, "thresholding", ("none", "static", "dynamic")),
    }
    for name in sorted({name for one in requested for name in one} - readers.keys()):
        raise UserError(f"unknown setting {shown(name)} of a stage: choose from {', '.join(readers)}")
    settings = {}
    for name, read in readers.items():
        values = [one[name] for one in requested if name in one]
        if values and len(values) != stages:
            raise UserError(f"{name} is given for {len(values)} of {stages} stages: give it for all")
        if values:
            settings[name] = [read(value) for value in values]
    return settings


def shown(value: Any) -> str:
    """Returns a value in ASCII for a message, shortened to 60 characters."""
    return textwrap.shorten(ascii(value), 60, placeholder="…")


def read_choice(value: Any, name: str, known: Any) -> str:
    """Returns a name after checking that it is one of the known names."""
    if value not in list(known):
        raise UserError(f"{name} must be one of {', '.join(known)}, not {shown(value)}")
    return value


def read_images(requested: Mapping[str, Any]) -> tuple[bytes, bytes]:
    """Returns the uploaded files of an order's image and mask, not decoded; empty for missing ones.

    Only their headers are checked here. Other errors in the files are reported when the order is sampled.
    """
    if not requested.get("image"):
        for name in EDIT_FIELDS:
            if requested.get(name):
                raise UserError(f"{name} has no effect without an image: choose one to edit, or leave it out")
        return b"", b""
    image, size = read_data_url(requested["image"], "image")
    if not requested.get("mask"):
        return image, b""
    mask, mask_size = read_data_url(requested["mask"], "mask")
    # Compare sorted sides, because an orientation in a file may swap width and height.
    if sorted(size) != sorted(mask_size):
        raise UserError(
            f"the mask has {mask_size[0]}×{mask_size[1]} pixels and the image {size[0]}×{size[1]}: make them equal"
        )
    return image, mask


def read_data_url(url: Any, name: str) -> tuple[bytes, tuple[int, int]]:
    """Decodes a ``data:image/png;base64,…`` URL to an image file's bytes, and reads its header.

    Returns:
        The bytes of the file, and the image's (width, height).

    Raises:
        UserError: the URL holds no image, or a side exceeds ``MAX_SIDE``.
    """
    try:
        head, _, content = url.partition(",")
        if not head.startswith("data:image/"):
            raise ValueError("not a data URL of an image")
        encoded = base64.b64decode(content, validate=True)
        with opened_image(encoded) as image:
            width, height = image.size
    except (AttributeError, ValueError) as error:
        raise UserError(f"the {name} can't be read ({error}): choose a PNG, JPEG or WebP file") from error
    if max(width, height) > MAX_SIDE:
        raise UserError(f"the {name} has {width}×{height} pixels: make each side at most {MAX_SIDE} pixels")
    return encoded, (width, height)


def decode_sent(encoded: bytes, name: str, decode: Callable[[bytes], np.ndarray]) -> np.ndarray:
    """Decodes an uploaded file. ``name`` appears in the error message.

    Raises:
        UserError: the file can't be decoded.
    """
    try:
        return decode(encoded)
    except DamagedImageError as error:
        raise UserError(f"the {name} can't be read ({error}): choose a PNG, JPEG or WebP file") from error
