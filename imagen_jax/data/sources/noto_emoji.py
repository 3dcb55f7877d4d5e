"""The bitmaps of Noto Color Emoji: a font whose glyphs are PNG files of 136 × 128 pixels.

The font is a file of the Debian package ``fonts-noto-color-emoji``. Its table ``CBDT`` contains the PNG files, ``cmap``
maps code points to glyphs, and ``GSUB`` contains the ligatures: sequences of glyphs, such as the two letters of a flag,
and the glyph that replaces them. ``fontTools`` reads all of these tables.
"""

import hashlib
import importlib
import io
from collections.abc import Sequence
from typing import Any, NamedTuple

from absl import logging

from imagen_jax.data.sources.emoji_keys import without_selector
from imagen_jax.errors import UserError
from imagen_jax.storage.paths import Path, list_below, to_path

LICENCE = "Apache-2.0 (images), OFL-1.1 (font)"
"""As in Debian's ``copyright`` file, and in the font's own table of names."""

ATTRIBUTION = f"Noto Color Emoji, copyright 2013-2022 Google Inc.; {LICENCE}"
FILE = "NotoColorEmoji.ttf"
PLACES = (f"/usr/share/fonts/truetype/noto/{FILE}", f"/usr/share/fonts/noto/{FILE}")
"""Where Debian and other distributions install the font."""

PACKAGE = "fonts-noto-color-emoji"
INSTALL = (
    f"run `apt-get install {PACKAGE}`, or without root `apt-get download {PACKAGE} && dpkg-deb -x {PACKAGE}_*.deb "
    "FOLDER`, and set the option noto=FOLDER"
)

RELEASES = {"e5899ed38b8ed83e08bd3ac5de09791e9d19d288333a796de1d35ad17396f1ec": "2.042"}
"""Versions of the font by the SHA-256 of the file: those that were tried."""

Ligatures = dict[tuple[str, ...], str]


class BitmapFont(NamedTuple):
    """A font of bitmaps.

    Attributes:
        bitmaps: PNG file of each glyph that has one, by the glyph's name.
        glyphs: name of the glyph of each code point.
        lookups: tables of ligatures, in the order in which they apply.
    """

    bitmaps: dict[str, bytes]
    glyphs: dict[int, str]
    lookups: list[Ligatures]

    def find(self, code_points: Sequence[int]) -> bytes | None:
        """Returns the PNG file of an emoji; None if the font does not draw it with one glyph.

        Args:
            code_points: code points of the emoji; variation selectors are ignored.
        """
        names = [self.glyphs.get(point) for point in without_selector(code_points)]
        if None in names:
            return None
        for ligatures in self.lookups:
            names = join_ligatures(names, ligatures)
        return self.bitmaps.get(str(names[0])) if len(names) == 1 else None


def find_font(noto: str | Path = "") -> Path:
    """Returns the path of the font's file.

    Args:
        noto: the file, or a folder with it, at any depth; "" for the places where distributions install it.

    Raises:
        UserError: there is no such file.
    """
    if not noto:
        found = [place for place in map(to_path, PLACES) if place.is_file()]
        if not found:
            raise UserError(f"the font {PLACES[0]} is not there: {INSTALL}")
        return found[0]
    path = to_path(noto).expanduser()
    if path.is_file():
        return path
    found = [file for file in list_below(path).files if file.name == FILE] if path.is_dir() else []
    if not found:
        raise UserError(f"{path} is neither {FILE} nor a folder that contains it: {INSTALL}")
    return found[0]


def read_font(path: Path) -> BitmapFont:
    """Reads the font from its file, and logs a warning if it is not one of ``RELEASES``.

    Raises:
        UserError: the file is damaged, or is a font without bitmaps; or ``fontTools`` is not installed.
    """
    try:
        ttlib = importlib.import_module("fontTools.ttLib")
    except ModuleNotFoundError as error:
        raise UserError("the emoji of Noto need the package fonttools: run `pip install fonttools`") from error
    content = path.read_bytes()
    checksum = hashlib.sha256(content).hexdigest()
    if checksum not in RELEASES:
        tried = ", ".join(RELEASES.values())
        logging.warning("%s is not a release that was tried (%s): the number of its emoji may differ", path, tried)
    try:
        font = ttlib.TTFont(io.BytesIO(content), lazy=True, ignoreDecompileErrors=False)
        if "CBDT" not in font:
            raise UserError(f"{path} is a font without bitmaps (table CBDT): {INSTALL}")
        return BitmapFont(read_bitmaps(font), font.getBestCmap() or {}, read_ligatures(font))
    except UserError:
        raise
    except Exception as error:
        # fontTools raises many exception types on invalid bytes.
        raise UserError(f"{path} is damaged ({type(error).__name__}: {error}): {INSTALL}") from error


def read_bitmaps(font: Any) -> dict[str, bytes]:
    """Returns the PNG files of a font's largest bitmaps, by the glyphs' names.

    Args:
        font: a ``TTFont`` with the tables ``CBDT`` and ``CBLC``.
    """
    sizes = [strike.bitmapSizeTable.ppemY for strike in font["CBLC"].strikes]
    glyphs = font["CBDT"].strikeData[sizes.index(max(sizes))]
    return {name: glyph.imageData for name, glyph in glyphs.items()}


def read_ligatures(font: Any) -> list[Ligatures]:
    """Returns the ligatures of a font's features, one table for each lookup; [] if it has none.

    Substitutions of other kinds are left out. Noto has none that an emoji needs.

    Args:
        font: a ``TTFont``.
    """
    if "GSUB" not in font or font["GSUB"].table.FeatureList is None:
        return []
    table = font["GSUB"].table
    used = {index for record in table.FeatureList.FeatureRecord for index in record.Feature.LookupListIndex}
    tables = [ligatures_of(table.LookupList.Lookup[index]) for index in sorted(used)]
    return [ligatures for ligatures in tables if ligatures]


def ligatures_of(lookup: Any) -> Ligatures:
    """Returns the ligatures of one lookup: the sequence of glyphs, and the glyph that replaces it."""
    found: Ligatures = {}
    for subtable in lookup.SubTable:
        # Type 7 contains a subtable of another type, at an offset of 32 bits.
        inner = getattr(subtable, "ExtSubTable", subtable)
        for first, ligatures in getattr(inner, "ligatures", {}).items():
            for ligature in ligatures:
                found.setdefault((first, *ligature.Component), ligature.LigGlyph)
    return found


def join_ligatures(names: Sequence[Any], ligatures: Ligatures) -> list[Any]:
    """Replaces sequences of glyphs by their ligatures, from the first glyph to the last, the longest sequence first."""
    joined: list[Any] = []
    start = 0
    while start < len(names):
        lengths = range(len(names) - start, 1, -1)
        length = next((each for each in lengths if tuple(names[start : start + each]) in ligatures), 1)
        sequence = tuple(names[start : start + length])
        joined.append(ligatures.get(sequence, sequence[0]))
        start += length
    return joined
