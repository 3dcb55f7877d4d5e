"""Pairs the images of two folders by prompt and index, for comparison.

    files -> each fully decoded, its prompt and index read -> keys that both folders have -> pairs, with categories

A folder has the form that ``sample`` or ``evaluate --protocol=drawbench`` writes: PNG, JPEG or WebP files with "prompt"
and "index" in their metadata. It may also hold ``prompts.csv`` with a category for each prompt. The table may have
DrawBench's own columns, ``Prompts`` and ``Category``. Notes report the skipped files.
"""

import hashlib
import json
import os
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby, islice
from typing import Any, NamedTuple

from PIL import Image

from imagen_jax.cascade.image_files import IMAGE_DESCRIPTION
from imagen_jax.data.opened_images import DamagedImageError, opened_image
from imagen_jax.data.pixels import decode_pixels
from imagen_jax.data.preparation.file_errors import reason_of
from imagen_jax.data.prompts import check_readable
from imagen_jax.data.sources.image_folders import IMAGE_SUFFIXES, OTHER_IMAGE_SUFFIXES
from imagen_jax.data.sources.record_fields import is_utf8
from imagen_jax.data.sources.table_rows import ROW_READERS
from imagen_jax.errors import UserError
from imagen_jax.runtime.progress import tqdm
from imagen_jax.storage.json_text import parse_json
from imagen_jax.storage.paths import Path, files_in

SUFFIXES = (".jpeg", ".jpg", ".png", ".webp")
NOT_SHOWN = {*IMAGE_SUFFIXES, *OTHER_IMAGE_SUFFIXES} - {*SUFFIXES}
GRID = "grid.png"
"""Overview file beside the images, which is skipped."""

PROMPTS = "prompts.csv"
NO_CATEGORIES, NO_CATEGORY = "all", "other"
"""Category of all prompts without a ``prompts.csv``; category of a prompt for which ``prompts.csv`` has none."""

MAX_DIGITS = 9
"""Max number of digits of an index."""

Key = tuple[str, int]
"""A prompt and the index of one of its images."""


class Found(NamedTuple):
    """An image that can be shown.

    Attributes:
        file: path of the image file.
        key: prompt and index of the image; None if its metadata lack them.
        digest: SHA-256 of the file's content, in hexadecimal digits.
    """

    file: Path
    key: Key | None
    digest: str


class Pair(NamedTuple):
    """Images of one prompt that a rater compares.

    Attributes:
        key: hash of the prompt and the indices, 32 hexadecimal digits.
        prompt: prompt of all the images.
        category: category of the prompt.
        a: image files of the first folder.
        b: image files of the second folder, with the same indices.
    """

    key: str
    prompt: str
    category: str
    a: tuple[Path, ...]
    b: tuple[Path, ...]


class Comparison(NamedTuple):
    """All pairs of two folders.

    Attributes:
        names: shortest distinct endings of the two folders' paths.
        pairs: all pairs, sorted by prompt.
        fingerprints: hash of each folder's paired images with their prompts and indices.
        notes: sentences about skipped files and prompts.
    """

    names: tuple[str, str]
    pairs: tuple[Pair, ...]
    fingerprints: tuple[str, str]
    notes: tuple[str, ...]


def make_comparison(a: Path, b: Path, together: int = 1) -> Comparison:
    """Pairs the images of two folders that have the same prompt and index.

    Args:
        a: the first folder.
        b: the second folder.
        together: max number of images of a prompt that one pair shows on each side.

    Raises:
        UserError: a folder is missing or holds no usable image, both are the same folder or hold the same images, two
            images of a folder have the same prompt and index, ``prompts.csv`` can't be read, or there is no pair.
    """
    for folder in (a, b):
        if not folder.is_dir():
            raise UserError(f"there is no folder {folder}: name a folder of images, as in --a=runs/drawbench/pictures")
    if a.resolve() == b.resolve():
        raise UserError(f"{a} is given twice: name the images of two models, as in --a=… --b=…")
    ours, notes_a = read_images(a)
    theirs, notes_b = read_images(b)
    shared = sorted(ours.keys() & theirs.keys())
    if not shared:
        raise UserError(f"{a} and {b} have no prompt and index in common: sample the same prompts with both models")
    marks = [mark_of([(*key, side[key].digest) for key in shared]) for side in (ours, theirs)]
    if marks[0] == marks[1]:
        raise UserError(f"{a} and {b} contain the same images: name the images of two models")
    categories = read_categories(b) | read_categories(a)
    pairs = []
    for prompt, keys in groupby(shared, key=lambda key: key[0]):
        category = categories.get(prompt, NO_CATEGORY) if categories else NO_CATEGORIES
        while part := list(islice(keys, together)):
            files = [tuple(side[key].file for key in part) for side in (ours, theirs)]
            pairs.append(Pair(mark_of(part)[:32], prompt, category, *files))
    notes = [*notes_a, *notes_b, *describe_unpaired(ours, theirs, (a, b))]
    return Comparison(short_names(a, b), tuple(pairs), (marks[0], marks[1]), tuple(notes))


def mark_of(values: Sequence[tuple[str | int, ...]]) -> str:
    """Returns the SHA-256 of names and numbers, in hexadecimal digits."""
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()


def read_images(folder: Path) -> tuple[dict[Key, Found], list[str]]:
    """Reads the images of a folder that can be decoded and whose metadata have a prompt and an index.

    Returns:
        The images by prompt and index, and notes about the skipped files.

    Raises:
        UserError: there is no such image, or two images have the same prompt and index.
    """
    all_files = files_in(folder)
    files = [file for file in all_files if file.suffix.lower() in SUFFIXES and file.name != GRID]
    others = [file.name for file in all_files if file.suffix.lower() in NOT_SHOWN]
    images: dict[Key, Found] = {}
    unlabelled, notes = [], []
    if others:
        notes.append(f"{len(others)} of {folder} left out, because they are not PNG, JPEG or WebP, such as {others[0]}")
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        looked = threads.map(look_into, files)
        # ``disable=None`` hides the bar when the output is no terminal.
        for found in tqdm(looked, desc=f"Reading {folder.name}", total=len(files), unit="image", disable=None):
            if isinstance(found, str):
                notes.append(found)
            elif found.key is None:
                unlabelled.append(found.file.name)
            elif found.key in images:
                names = f"{images[found.key].file.name} and {found.file.name}"
                raise UserError(f"{names} of {folder} have the same prompt and index: keep only one of them")
            else:
                images[found.key] = found
    if unlabelled:
        notes.append(
            f"{len(unlabelled)} of {folder} left out, because they have no prompt and index, such as {unlabelled[0]}"
        )
    if not images:
        why = f" ({notes[0]})" if notes else ""
        raise UserError(
            f"{folder} contains no PNG, JPEG or WebP that imagen_jax.sample wrote{why}: name another folder"
        )
    return images, notes


def look_into(file: Path) -> Found | str:
    """Returns an image file that can be fully decoded; otherwise a sentence that says why it is skipped."""
    try:
        encoded = file.read_bytes()
        decode_pixels(encoded)
        key = read_key(encoded)
    except (OSError, DamagedImageError) as error:
        reason = reason_of(error) if isinstance(error, OSError) else str(error)
        return f"{file} is left out: {reason}"
    return Found(file, key, hashlib.sha256(encoded).hexdigest())


def read_key(encoded: bytes) -> Key | None:
    """Reads the prompt and the index from an image's metadata, see ``cascade.image_files.encode_picture``.

    Returns:
        The prompt and the index; None if either is missing or invalid.

    Raises:
        DamagedImageError: the metadata can't be read.
    """
    with warnings.catch_warnings(action="ignore"), opened_image(encoded) as image:
        metadata: Mapping[Any, object] = image.info
        if "prompt" not in metadata:
            # Other programs write a PNG's texts after its pixels, where Pillow finds them only by decoding the image.
            metadata = getattr(image, "text", {}) or read_description(image)
    prompt, index = metadata.get("prompt"), str(metadata.get("index"))
    is_index = index.isdecimal() and len(index) <= MAX_DIGITS
    if not isinstance(prompt, str) or not prompt.strip() or not is_utf8(prompt) or not is_index:
        return None
    return prompt.strip(), int(index)


def read_description(image: Image.Image) -> dict[str, object]:
    """Returns the EXIF description of an image if it is a JSON object; otherwise an empty dict."""
    try:
        description = parse_json(image.getexif().get(IMAGE_DESCRIPTION, ""))
    except (TypeError, ValueError):
        return {}
    return description if isinstance(description, dict) else {}


def read_categories(folder: Path) -> dict[str, str]:
    """Reads the category of each prompt from a folder's ``prompts.csv``; returns an empty dict without that file.

    The columns are ``prompt`` or ``prompts``, and ``category``, in upper or lower case. If a prompt is in several rows,
    the first one counts.

    Raises:
        UserError: the table can't be read or lacks a column.
    """
    table = folder / PROMPTS
    if not table.exists():
        return {}
    categories: dict[str, str] = {}
    for row in ROW_READERS[".csv"](table, None, ()):
        if row.problem:
            raise UserError(f"{row.name} of {table} can't be read ({row.problem}, {row.detail}): fix it")
        values = {name.strip().lower(): str(value).strip() for name, value in row.values.items()}
        prompt, category = values.get("prompt", values.get("prompts")), values.get("category")
        if prompt is None or category is None:
            raise UserError(f"{table} has no columns prompt and category: name them in the first line")
        check_readable([prompt, category])
        categories.setdefault(prompt, category or NO_CATEGORY)
    return categories


def describe_unpaired(ours: Mapping[Key, Found], theirs: Mapping[Key, Found], folders: tuple[Path, Path]) -> list[str]:
    """Returns notes about prompts that only one folder has, and about unpaired images of shared prompts."""
    notes = []
    prompts = [{prompt for prompt, _ in side} for side in (ours, theirs)]
    for mine, others, folder in zip(prompts, reversed(prompts), folders, strict=True):
        if alone := sorted(mine - others):
            notes.append(f"{len(alone)} prompt(s) left out, because only {folder} has them, such as {alone[0]!r}")
    single = [key for key in ours.keys() ^ theirs.keys() if key[0] in prompts[0] & prompts[1]]
    if single:
        notes.append(f"{len(single)} image(s) left out, because the other folder lacks their index")
    return notes


def short_names(a: Path, b: Path) -> tuple[str, str]:
    """Returns the shortest endings of two paths that differ."""
    parts = [path.resolve().parts for path in (a, b)]
    for length in range(1, max(map(len, parts)) + 1):
        first, second = ("/".join(part[-length:]) for part in parts)
        if first != second:
            return first, second
    return str(a), str(b)
