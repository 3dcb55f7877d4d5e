"""Writes a page that shows the images of several models side by side, prompt by prompt.

    folder of PNGs -> images_by_prompt -> ModelImages of each model --+-> thumbnails -> one HTML file
    prompts with their categories ----------------------------------------+

The page is one file of at most about 60 MB for any number of images: they share ``MAX_ENCODED_BYTES``. With 200 prompts
× 8 images × 2 models, each image can have 13.6 kB, which is more than a WebP of 256 px usually needs.
"""

import itertools
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from imagen_jax.data.opened_images import DamagedImageError, opened_image
from imagen_jax.errors import UserError
from imagen_jax.evaluation.reports.drawbench import DrawBenchPrompt
from imagen_jax.evaluation.reports.html_pages import data_uri, thumbnail, write_page
from imagen_jax.storage.paths import Path, files_in
from imagen_jax.storage.refusals import raise_if_denied

SIDE = 256
MAX_DIGITS = 9
"""The max number of digits of an image's index."""

MAX_ENCODED_BYTES = 58_000_000
"""The max number of characters of all encoded images together."""

MAX_BYTES, MIN_BYTES = 24_000, 1_000
"""The upper and the lower bound of the size limit for an image, in bytes. It depends on the number of images."""

ENCODED = 4 / 3
"""The number of base64 characters per byte."""


@dataclass(frozen=True)
class ModelImages:
    """The images of one model.

    Attributes:
        name: the name on the page.
        images: image files by prompt, in display order.
        settings: the sampling settings to print.
    """

    name: str
    images: Mapping[str, Sequence[Path]]
    settings: Mapping[str, Any] = field(default_factory=dict)


def images_by_prompt(folder: Path) -> dict[str, list[Path]]:
    """Returns the images in a folder of ``imagen_jax.sample``, by prompt and in the order of their index.

    Prompt and index come from the text chunks of each PNG; no pixels are decoded. Images without index, such as the
    grid, are ignored.

    Raises:
        UserError: a PNG can't be read, or none contains a prompt and an index.
    """
    found: dict[str, list[tuple[int, Path]]] = {}
    for path in files_in(folder):
        if path.suffix.lower() != ".png":
            continue
        try:
            # Not `text`, which decodes the whole image to find chunks after the pixels.
            with path.open("rb") as file, opened_image(file) as image:
                chunks = image.info
        except (OSError, DamagedImageError) as error:
            raise_if_denied(error, path)
            raise UserError(f"the image {path} can't be read ({error}): delete it and sample it again") from error
        prompt, index = chunks.get("prompt"), str(chunks.get("index", ""))
        if isinstance(prompt, str) and index.isdecimal() and len(index) <= MAX_DIGITS:
            found.setdefault(str(prompt), []).append((int(index), path))
    if not found:
        raise UserError(
            f"{folder} contains no PNG with a prompt and an index: name a folder of imagen_jax.sample with --format=png"
        )
    return {
        prompt: [path for _, path in sorted(images, key=lambda image: (image[0], image[1].name))]
        for prompt, images in found.items()
    }


def write_side_by_side(path: Path, models: Sequence[ModelImages], prompts: Sequence[DrawBenchPrompt]) -> int:
    """Writes the page. Where a model lacks an image that another has, there is an empty cell with a notice.

    Args:
        path: the HTML file.
        models: the models, from left to right.
        prompts: the prompts, each once. They are grouped by category.

    Returns:
        The size of the page in bytes.

    Raises:
        UserError: no model has an image of any prompt, there are too many images for one page, an image can't be read,
            or the page can't be written.
    """
    shown = {prompt.prompt for prompt in prompts}
    files = [file for model in models for name, images in model.images.items() if name in shown for file in images]
    if not files:
        raise UserError(f"there is no image of any prompt for {path}: sample the prompts first")
    addresses = embed(files)
    categories: dict[str, list[dict[str, Any]]] = {}
    for prompt in prompts:
        entry: dict[str, Any] = {"text": prompt.prompt, "cells": cells(prompt, models, addresses)}
        categories.setdefault(prompt.category, []).append(entry)
    # Numbered in the order of the page, which groups prompts by category.
    for number, entry in enumerate(itertools.chain(*categories.values()), start=1):
        entry["number"] = number
    others = [sum(name not in shown for name in model.images) for model in models]
    values = {
        "models": [
            {"name": model.name, "settings": model.settings, "others": unseen}
            for model, unseen in zip(models, others, strict=True)
        ],
        "categories": categories,
        "prompts": len(prompts),
        "images": len(files),
        "megabytes": sum(map(len, addresses.values())) / 1e6,
        "side": SIDE,
    }
    return write_page(path, "side_by_side.html.jinja", values)


def embed(files: Sequence[Path]) -> dict[Path, str]:
    """Returns the data URI of each image's thumbnail, with at most ``MAX_ENCODED_BYTES`` characters together.

    Raises:
        UserError: there are too many images, or one can't be read.
    """
    max_bytes = min(MAX_BYTES, int(MAX_ENCODED_BYTES / ENCODED / len(files)) - 2)
    if max_bytes < MIN_BYTES:
        max_images = int(MAX_ENCODED_BYTES / ENCODED / (MIN_BYTES + 2))
        raise UserError(
            f"{len(files):,} images are too many for one page: choose prompts with at most {max_images:,} images"
        )

    def address(file: Path) -> str:
        return data_uri(thumbnail(file, SIDE, max_bytes), str(file))

    # Threads run in parallel here, because Pillow releases the GIL while it encodes.
    with ThreadPoolExecutor(os.cpu_count()) as workers:
        return dict(zip(files, workers.map(address, files), strict=True))


def cells(
    prompt: DrawBenchPrompt, models: Sequence[ModelImages], addresses: Mapping[Path, str]
) -> list[list[str | None]]:
    """Returns the data URIs of a prompt's images for each model, padded with None to the max number of images."""
    rows = [[addresses[file] for file in model.images.get(prompt.prompt, ())] for model in models]
    columns = max(1, *map(len, rows))
    return [[*row, *[None] * (columns - len(row))] for row in rows]
