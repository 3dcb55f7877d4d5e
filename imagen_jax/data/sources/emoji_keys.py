"""Keys of the emoji of several fonts: code points and the style, such as ``1F34E-noto``.

The style is the font that draws the emoji. The keys of the source ``openmoji`` are code points alone.
"""

from collections.abc import Sequence

STYLES = ("openmoji", "noto", "fluent")
"""The fonts of the source ``emoji_fonts``."""

VARIATION_SELECTOR = 0xFE0F
SKIN_TONES = range(0x1F3FB, 0x1F3FF + 1)


def read_code_points(text: str) -> tuple[int, ...]:
    """Parses code points: ``"1F1E6-FE0F"`` is (0x1F1E6,); variation selectors are removed.

    Raises:
        ValueError: the text is not hexadecimal numbers, separated by hyphens.
    """
    return without_selector(int(point, 16) for point in text.split("-"))


def without_selector(code_points) -> tuple[int, ...]:
    """Returns code points without variation selectors, which fonts and lists include or omit as they like."""
    return tuple(point for point in code_points if point != VARIATION_SELECTOR)


def has_skin_tone(code_points: Sequence[int]) -> bool:
    """Returns whether an emoji is a variant with a skin tone, or a swatch of one."""
    return any(point in SKIN_TONES for point in code_points)


def make_key(code_points: Sequence[int], style: str) -> str:
    """Returns the key of an emoji: (0x1F34E,) of ``noto`` is ``"1F34E-noto"``."""
    return "-".join([*(f"{point:04X}" for point in code_points), style])


def style_of(key: str) -> str | None:
    """Returns the style of an emoji by its key; None if it is not a key of the source ``emoji_fonts``."""
    code_points, _, style = key.rpartition("-")
    return style if style in STYLES and code_points_of(code_points) else None


def code_points_of(key: str) -> tuple[int, ...]:
    """Returns the code points of an emoji by its key, with or without a style; () if it is the key of another image."""
    code_points, _, style = key.rpartition("-")
    try:
        return read_code_points(code_points if style in STYLES else key)
    except ValueError:
        return ()
