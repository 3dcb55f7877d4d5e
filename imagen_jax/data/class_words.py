"""Descriptions of the classes of ``classes.CLASSES``, for zero-shot classifiers: a short name and five words each.

They were written from the meaning of the classes, before anything was measured, and are never tuned: otherwise they
would be fitted to the images that they are measured on.
"""

from collections.abc import Mapping
from typing import NamedTuple


class ClassDescription(NamedTuple):
    """What a class is called in prompts.

    Attributes:
        short_name: one noun, for prompts that name the class alone.
        words: five nouns or noun phrases, without article, for prompts of which a classifier takes the mean.
    """

    short_name: str
    words: tuple[str, ...]


GROUP_DESCRIPTIONS: Mapping[str, ClassDescription] = {
    "Smileys & Emotion": ClassDescription("face", ("smiling face", "sad face", "emotion", "feeling", "heart")),
    "People & Body": ClassDescription("person", ("person", "man", "woman", "hand", "part of the body")),
    "Animals & Nature": ClassDescription("animal", ("animal", "bird", "fish", "plant", "flower")),
    "Food & Drink": ClassDescription("food", ("food", "fruit", "meal", "dessert", "drink")),
    "Travel & Places": ClassDescription("place", ("building", "vehicle", "landscape", "weather", "sky")),
    "Activities": ClassDescription("activity", ("sport", "game", "celebration", "award", "hobby")),
    "Objects": ClassDescription(
        "object", ("tool", "clothing", "musical instrument", "electronic device", "household item")
    ),
    "Symbols": ClassDescription("symbol", ("symbol", "sign", "arrow", "letter", "geometric shape")),
    "Flags": ClassDescription("flag", ("flag", "national flag", "flag of a country", "banner", "country")),
}
"""Unicode's nine groups of emoji."""

STYLE_DESCRIPTIONS: Mapping[str, ClassDescription] = {
    "openmoji": ClassDescription(
        "outline drawing",
        ("outline drawing", "drawing with black outlines", "flat drawing", "line drawing", "simple drawing"),
    ),
    "noto": ClassDescription(
        "cartoon", ("cartoon", "shaded drawing", "drawing without outlines", "colourful cartoon", "soft drawing")
    ),
    "fluent": ClassDescription(
        "3D rendering", ("3D rendering", "three-dimensional object", "glossy object", "plastic figure", "3D model")
    ),
}
"""The fonts of the source ``emoji_fonts``. Without its option ``name_styles`` captions name no style: a model that read
only them knows none."""

DESCRIPTIONS: Mapping[str, Mapping[str, ClassDescription]] = {
    "openmoji_groups": GROUP_DESCRIPTIONS,
    "emoji_styles": STYLE_DESCRIPTIONS,
}
"""Descriptions by the names of ``classes.CLASSES`` and the names of the classes."""
