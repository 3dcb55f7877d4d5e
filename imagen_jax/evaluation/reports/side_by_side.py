"""A page on which models stand side by side, prompt by prompt.

    folder of PNGs -> pictures_by_prompt -> ModelPictures of each model --+-> thumbnails -> one HTML file
    prompts with their categories ----------------------------------------+

The page is one file of at most about 60 MB, however many pictures it shows: they share ``MAX_ENCODED_BYTES``. 200
prompts × 8 pictures × 2 models have 13.6 kB each, which is more than a WebP of 256 px usually needs.
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
"""Of a picture's index."""

MAX_ENCODED_BYTES = 58_000_000
"""Characters of all pictures together."""

LARGEST, SMALLEST = 24_000, 1_000
"""Bytes that a picture may have where there are few, and must have where there are many."""

ENCODED = 4 / 3
"""Characters for each byte, in base 64."""


@dataclass(frozen=True)
class ModelPictures:
    """What one model drew.

    Attributes:
        name: as the page shows it.
        pictures: files by prompt, in the order in which they are shown.
        settings: how they were drawn, to be printed.
    """

    name: str
    pictures: Mapping[str, Sequence[Path]]
    settings: Mapping[str, Any] = field(default_factory=dict)


def pictures_by_prompt(folder: Path) -> dict[str, list[Path]]:
    """The pictures of a folder as ``imagen_jax.sample`` writes it, by what they show and in the order of their index.

    A picture's text chunks say which it is; none is decoded. What has no index, like the grid, is left out.

    Raises:
        UserError: a PNG can't be read, or none says which picture it is.
    """
    found: dict[str, list[tuple[int, Path]]] = {}
    for path in files_in(folder):
        if path.suffix.lower() != ".png":
            continue
        try:
            # Not `text`, which decodes the whole picture to look for chunks behind it.
            with path.open("rb") as file, opened_image(file) as image:
                said = image.info
        except (OSError, DamagedImageError) as error:
            raise_if_denied(error, path)
            raise UserError(f"the picture {path} can't be read ({error}): delete it and draw it again") from error
        prompt, index = said.get("prompt"), str(said.get("index", ""))
        if isinstance(prompt, str) and index.isdecimal() and len(index) <= MAX_DIGITS:
            found.setdefault(str(prompt), []).append((int(index), path))
    if not found:
        raise UserError(
            f"{folder} holds no PNG that says what it shows: name a folder of imagen_jax.sample with --format=png"
        )
    return {
        prompt: [path for _, path in sorted(places, key=lambda place: (place[0], place[1].name))]
        for prompt, places in found.items()
    }


def write_side_by_side(path: Path, models: Sequence[ModelPictures], prompts: Sequence[DrawBenchPrompt]) -> int:
    """Writes the page; where a model lacks a picture that another has, there is an empty cell that says so.

    Args:
        path: the HTML file.
        models: from left to right.
        prompts: each once; those of a category stand together.

    Returns:
        The page's size in bytes.

    Raises:
        UserError: no model has a picture of any prompt, there are too many for one page, a picture can't be read, or
            the page can't be written.
    """
    shown = {prompt.prompt for prompt in prompts}
    files = [
        file for model in models for name, pictures in model.pictures.items() if name in shown for file in pictures
    ]
    if not files:
        raise UserError(f"there is no picture of any prompt to write {path} of: draw the prompts first")
    addresses = embed(files)
    categories: dict[str, list[dict[str, Any]]] = {}
    for prompt in prompts:
        entry: dict[str, Any] = {"text": prompt.prompt, "cells": cells(prompt, models, addresses)}
        categories.setdefault(prompt.category, []).append(entry)
    # Numbered as they stand on the page, where those of a category stand together.
    for number, entry in enumerate(itertools.chain(*categories.values()), start=1):
        entry["number"] = number
    others = [sum(name not in shown for name in model.pictures) for model in models]
    values = {
        "models": [
            {"name": model.name, "settings": model.settings, "others": unseen}
            for model, unseen in zip(models, others, strict=True)
        ],
        "categories": categories,
        "prompts": len(prompts),
        "pictures": len(files),
        "megabytes": sum(map(len, addresses.values())) / 1e6,
        "side": SIDE,
    }
    return write_page(path, "side_by_side.html.jinja", values)


def embed(files: Sequence[Path]) -> dict[Path, str]:
    """The address of each picture's thumbnail, of ``MAX_ENCODED_BYTES`` characters together.

    Raises:
        UserError: there are too many pictures for that, or one can't be read.
    """
    most_bytes = min(LARGEST, int(MAX_ENCODED_BYTES / ENCODED / len(files)) - 2)
    if most_bytes < SMALLEST:
        most = int(MAX_ENCODED_BYTES / ENCODED / (SMALLEST + 2))
        raise UserError(f"{len(files):,} pictures are too many for one page: choose prompts, {most:,} pictures at most")

    def address(file: Path) -> str:
        return data_uri(thumbnail(file, SIDE, most_bytes), str(file))

    # Pillow encodes beside Python.
    with ThreadPoolExecutor(os.cpu_count()) as workers:
        return dict(zip(files, workers.map(address, files), strict=True))


def cells(
    prompt: DrawBenchPrompt, models: Sequence[ModelPictures], addresses: Mapping[Path, str]
) -> list[list[str | None]]:
    """For each model the addresses of its pictures of a prompt, and None for each that another model has more."""
    rows = [[addresses[file] for file in model.pictures.get(prompt.prompt, ())] for model in models]
    most = max(1, *map(len, rows))
    return [[*row, *[None] * (most - len(row))] for row in rows]
