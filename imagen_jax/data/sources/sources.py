"""The registry of small sources. To add one, write a function that lists captioned images, and add a line here."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from imagen_jax.data.sources import emoji_fonts, folder, openmoji
from imagen_jax.data.sources.captioned_image import CaptionedImage
from imagen_jax.errors import UserError, lookup, nearest_name

Item = TypeVar("Item")


@dataclass(frozen=True)
class Source(Generic[Item]):
    """A source of captioned images.

    Attributes:
        list_all: ``list_all(**options)`` lists the images, or parts of them, always in the same order.
        attribution: credit and licence, one line, which is stored with the data.
        activity: what is done to its images before training, for the progress bar; ``{}`` is the resolution.
    """

    list_all: Callable[..., Sequence[Item]]
    attribution: str
    activity: str = "Reading images, scaled to {} px"


SOURCES: dict[str, Source[CaptionedImage]] = {
    "openmoji": Source(openmoji.openmoji_images, openmoji.ATTRIBUTION, "Rendering emoji at {} px"),
    "emoji_fonts": Source(emoji_fonts.emoji_images, emoji_fonts.ATTRIBUTION, "Rendering emoji at {} px"),
    "folder": Source(folder.folder_images, "The user's own images", "Reading your images, scaled to {} px"),
}


def list_images(source_name: str, options: dict[str, Any]) -> Sequence[CaptionedImage]:
    """Lists the images of the source with a name.

    Raises:
        UserError: the source or an option is unknown, an option is missing, or the source itself raises it.
    """
    return list_all(SOURCES, source_name, options)


def list_all(table: dict[str, Source[Item]], source_name: str, options: Mapping[str, Any]) -> Sequence[Item]:
    """Lists the items of the source with a name in a registry.

    Raises:
        UserError: the source or an option is unknown, an option is missing, or the source itself raises it.
    """
    source = lookup(table, source_name, "data source")
    parameters = inspect.signature(source.list_all).parameters
    for name in options:
        if name not in parameters:
            raise UserError(f"unknown option {name!r} of data source {source_name!r}{nearest_name(name, parameters)}")
    for name, parameter in parameters.items():
        if parameter.default is parameter.empty and name not in options:
            raise UserError(f"data source {source_name!r} needs the option {name!r}: set it")
    return source.list_all(**options)
