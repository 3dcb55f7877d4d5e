"""The paths of images that a table names: within the folder that the user names, and nowhere else.

A table may come from strangers, so an absolute path counts where it leads into that folder, and ``..`` never leads out.
"""

import os
import posixpath
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from imagen_jax.storage.paths import SCHEME_OF_TEXT, Path, files_below, in_bucket, mark_of


@cache
def roots_of(folder: Path) -> tuple[str, ...]:
    """How absolute paths begin that lead into a folder, each with a slash at its end."""
    if in_bucket(folder):
        return (f"{str(folder).rstrip('/')}/",)
    return tuple({f"{absolute.rstrip('/')}/": None for absolute in (os.path.abspath(folder), os.path.realpath(folder))})


def image_path(value: Any, roots: Sequence[str]) -> str:
    """The path that a table's cell holds, in one way of several to write it, or nothing.

    Args:
        value: of the cell: a path, or an object that has one as ``path``, as Hugging Face's ``datasets`` write it.
        roots: of the folder of images; a path that begins with one becomes one in that folder.
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


def lies_outside(image: str) -> bool:
    """Whether a path leads out of the folder of images."""
    return image.startswith("/") or image.split("/")[0] == ".." or bool(SCHEME_OF_TEXT.match(image))


def image_marks(folder: Path) -> Callable[[str], str]:
    """A function of an image's path in a folder, which gives what changes when it is written again."""
    marks = files_below(folder) if in_bucket(folder) else {}

    def mark_image(image: str) -> str:
        if not image or lies_outside(image):
            return ""
        if in_bucket(folder):
            return marks.get(folder / image, "")
        try:
            return mark_of(folder / image)
        except (OSError, ValueError):
            return ""

    return mark_image
