"""Resolves the image paths in a table, only within the folder that the user names.

A table may come from strangers. An absolute path is therefore accepted only if it leads into that folder, and ``..``
never leads out of it.
"""

import os
import posixpath
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from imagen_jax.storage.paths import SCHEME_OF_TEXT, Path, files_below, in_bucket, mark_of


@cache
def roots_of(folder: Path) -> tuple[str, ...]:
    """Returns the prefixes of absolute paths that lead into a folder, each with a trailing slash."""
    if in_bucket(folder):
        return (f"{str(folder).rstrip('/')}/",)
    return tuple({f"{absolute.rstrip('/')}/": None for absolute in (os.path.abspath(folder), os.path.realpath(folder))})


def image_path(value: Any, roots: Sequence[str]) -> str:
    """Returns the normalised path in a table's cell, or "" if there is none.

    Args:
        value: value of the cell: a path, or an object with a ``path``, as Hugging Face's ``datasets`` writes it.
        roots: prefixes of absolute paths into the folder of images, see ``roots_of``; they are removed.
    """
    text = value.get("path") if isinstance(value, dict) else value
    if not isinstance(text, str) or not text.strip():
        return ""
    if text.startswith("/"):
        text = posixpath.normpath(f"/{text.lstrip('/')}")
    for root in roots:
        if text.startswith(root) and text != root:
            return posixpath.normpath(text[len(root) :])
    return posixpath.normpath(text)


def is_outside(image: str) -> bool:
    """Returns whether a path is a URL or leads out of the folder of images."""
    return image.startswith("/") or image.split("/")[0] == ".." or bool(SCHEME_OF_TEXT.match(image))


def image_marks(folder: Path) -> Callable[[str], str]:
    """Returns a function from an image's path in a folder to a text that changes when the file is rewritten."""
    marks = files_below(folder) if in_bucket(folder) else {}

    def mark_image(image: str) -> str:
        if not image or is_outside(image):
            return ""
        if in_bucket(folder):
            return marks.get(folder / image, "")
        try:
            return mark_of(folder / image)
        except (OSError, ValueError):
            return ""

    return mark_image
