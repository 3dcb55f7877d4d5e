"""The classes of images, by the images' keys: for class-conditional stages and for classifiers."""

from collections.abc import Callable
from typing import NamedTuple

from imagen_jax.data.sources.emoji_keys import STYLES, style_of
from imagen_jax.data.sources.openmoji_groups import GROUPS, group_of

NO_CLASS = -1
"""The label of an image without a class."""


class Classes(NamedTuple):
    """The classes of a data set's images.

    Attributes:
        names: class names; a label is an index into them.
        class_of: ``class_of(key)``: the class of the image with this key, or None if it has no class.
    """

    names: tuple[str, ...]
    class_of: Callable[[str], str | None]

    def label_of(self, key: str) -> int:
        """Returns the label of the image with this key; ``NO_CLASS`` if it has no class."""
        name = self.class_of(key)
        return NO_CLASS if name is None else self.names.index(name)


CLASSES = {"openmoji_groups": Classes(GROUPS, group_of), "emoji_styles": Classes(STYLES, style_of)}
"""Valid values of ``stage.classes`` and ``classifier.classes``.

openmoji_groups: Unicode's nine groups, of the images of the sources ``openmoji`` and ``emoji_fonts``.
emoji_styles: the fonts of the source ``emoji_fonts``.
"""
