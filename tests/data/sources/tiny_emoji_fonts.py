"""Small emoji fonts in the layouts of the genuine ones: a font of bitmaps, and a folder of an npm package."""

from pathlib import Path

import numpy as np
from fontTools.feaLib.builder import addOpenTypeFeaturesFromString
from fontTools.fontBuilder import FontBuilder
from fontTools.ttLib import newTable
from fontTools.ttLib.tables._g_l_y_f import Glyph
from fontTools.ttLib.tables.BitmapGlyphMetrics import SmallGlyphMetrics
from fontTools.ttLib.tables.C_B_D_T_ import cbdt_bitmap_format_17
from fontTools.ttLib.tables.E_B_L_C_ import SbitLineMetrics, Strike, eblc_index_sub_table_1
from PIL import Image

PPEM = 109
METRICS = (
    "ascender", "descender", "widthMax", "caretSlopeNumerator", "caretSlopeDenominator", "caretOffset", "minOriginSB",
    "minAdvanceSB", "maxBeforeBL", "minAfterBL", "pad1", "pad2",
)  # fmt: skip

CHARACTERS = {
    0x1F34E: "apple",
    0x2764: "heart",
    0x1F44B: "wave",
    0x1F3FD: "medium",
    0x1F1EB: "letter_f",
    0x1F1F7: "letter_r",
    0x0033: "three",
    0x20E3: "keycap",
    0x200D: "joiner",
    0x1F525: "fire",
    0x1F680: "rocket",
}
LIGATURES = {
    "flag": "letter_f letter_r",
    "keycap_three": "three keycap",
    "medium_wave": "wave medium",
    "burning_heart": "heart joiner fire",
}
BITMAPS = ("apple", "heart", "wave", "medium", "flag", "keycap_three", "medium_wave", "burning_heart", "fire")
"""Glyphs that have a bitmap; the rocket and the parts of flag and keycap have none."""


def bitmap_of(name: str) -> np.ndarray:
    """The image of a glyph: RGBA noise of the size of Noto's bitmaps, with a transparent frame."""
    pixels = np.random.default_rng(BITMAPS.index(name)).integers(0, 256, (128, 136, 4), dtype=np.uint8)
    pixels[..., 3] = 255
    pixels[:4], pixels[-4:], pixels[:, :4], pixels[:, -4:] = 0, 0, 0, 0
    return pixels


def write_bitmap_font(path: Path, folder: Path, colour: bool = True) -> Path:
    """Writes a font with the tables CBDT, CBLC, cmap and GSUB; without ``colour`` it has no bitmaps.

    Args:
        path: the new file.
        folder: a folder for the PNG files.
        colour: whether the font has bitmaps.
    """
    order = [".notdef", *BITMAPS, *(name for name in CHARACTERS.values() if name not in BITMAPS)]
    builder = FontBuilder(2048, isTTF=True)
    builder.setupGlyphOrder(order)
    builder.setupCharacterMap(CHARACTERS)
    builder.setupGlyf({name: Glyph() for name in order})
    builder.setupHorizontalMetrics(dict.fromkeys(order, (2550, 0)))
    builder.setupHorizontalHeader(ascent=1900, descent=-500)
    builder.setupNameTable({"familyName": "Tiny Color Emoji", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    rules = "\n".join(f"sub {sequence} by {name};" for name, sequence in LIGATURES.items())
    addOpenTypeFeaturesFromString(builder.font, f"feature ccmp {{ {rules} }} ccmp;")
    if colour:
        add_bitmaps(builder.font, folder)
    builder.save(path)
    return path


def add_bitmaps(font, folder: Path) -> None:
    """Adds the tables CBDT and CBLC to a font."""
    glyphs = {}
    for name in BITMAPS:
        Image.fromarray(bitmap_of(name)).save(folder / f"{name}.png")
        glyph = cbdt_bitmap_format_17(b"", font)
        glyph.metrics, glyph.imageData = SmallGlyphMetrics(), (folder / f"{name}.png").read_bytes()
        vars(glyph.metrics).update(height=128, width=136, BearingX=0, BearingY=101, Advance=136)
        glyphs[name] = glyph
    font["CBDT"], font["CBLC"] = newTable("CBDT"), newTable("CBLC")
    font["CBDT"].version, font["CBDT"].strikeData = 3.0, [glyphs]
    strike = Strike()
    table = strike.bitmapSizeTable
    table.hori, table.vert = SbitLineMetrics(), SbitLineMetrics()
    for line in (table.hori, table.vert):
        vars(line).update(dict.fromkeys(METRICS, 0))
    vars(table.hori).update(ascender=101, descender=-27, widthMax=136)
    vars(table).update(colorRef=0, startGlyphIndex=1, endGlyphIndex=len(BITMAPS), ppemX=PPEM, ppemY=PPEM, bitDepth=32)
    table.flags = 1
    index = eblc_index_sub_table_1(b"", font)
    vars(index).update(indexFormat=1, imageFormat=17, names=list(BITMAPS), imageDataOffset=0)
    index.firstGlyphIndex, index.lastGlyphIndex = 1, len(BITMAPS)
    strike.indexSubTables = [index]
    font["CBLC"].version, font["CBLC"].strikes = 3.0, [strike]


FLUENT = (
    "1f34e", "2764-fe0f", "2764", "1f44b", "1f44b-1f3fd", "1f680", "1f1eb-1f1f7", "1f3f4-e0067_e0062_e0065_e006e_e0067",
    "e50a",
)  # fmt: skip
"""File names of Fluent's images: one emoji has two, two are flags, and the last is no emoji."""


def fluent_image(name: str) -> np.ndarray:
    """The image of a file: RGB noise of 256 px."""
    return np.random.default_rng(100 + FLUENT.index(name)).integers(0, 256, (256, 256, 3), dtype=np.uint8)


def write_fluent_package(folder: Path) -> Path:
    """Writes the folder of the npm package, with lossless images."""
    (folder / "assets").mkdir(parents=True)
    for name in FLUENT:
        Image.fromarray(fluent_image(name)).save(folder / "assets" / f"{name}.webp", lossless=True)
    (folder / "package.json").write_text('{"name": "@lobehub/fluent-emoji-3d"}', encoding="utf-8")
    return folder
