"""The table of sources. A new one is a function that lists captioned images, and a line here."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from imagen_jax.data import folder, openmoji
from imagen_jax.data.captioned_image import CaptionedImage
from imagen_jax.errors import UserError, choose, nearest_name


class Source(NamedTuple):
    """Where captioned images come from.

    Attributes:
        list_images: ``list_images(**options)`` lists them, always in the same order.
        attribution: the line of credit and licence that is kept beside the data.
    """

    list_images: Callable[..., Sequence[CaptionedImage]]
    attribution: str


SOURCES = {
    "openmoji": Source(openmoji.openmoji_images, openmoji.ATTRIBUTION),
    "folder": Source(folder.folder_images, "The user's own images"),
}


def list_images(source_name: str, options: dict[str, Any]) -> Sequence[CaptionedImage]:
    """Lists the images of the source of that name.

    Raises:
        UserError: an unknown source or option, a missing option, or what the source itself raises.
    """
    source = choose(SOURCES, source_name, "data source")
    check_options(source_name, source.list_images, options)
    return source.list_images(**options)


def check_options(source_name: str, function: Callable[..., Any], options: Mapping[str, Any]) -> None:
    """Checks that a source takes these options, and needs no others.

    Raises:
        UserError: it does not, or needs another.
    """
    parameters = inspect.signature(function).parameters
    for name in options:
        if name not in parameters:
            raise UserError(f"unknown option {name!r} of data source {source_name!r}{nearest_name(name, parameters)}")
    for name, parameter in parameters.items():
        if parameter.default is parameter.empty and name not in options:
            raise UserError(f"data source {source_name!r} needs the option {name!r}: set it")
