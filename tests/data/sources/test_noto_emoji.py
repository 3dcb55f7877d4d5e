"""The reader of bitmap fonts, on a small font."""

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from imagen_jax.data.sources import noto_emoji
from imagen_jax.data.sources.noto_emoji import find_font, join_ligatures, read_font
from imagen_jax.errors import UserError
from imagen_jax.storage.paths import to_path
from tests.data.sources.tiny_emoji_fonts import PPEM, bitmap_of, write_bitmap_font


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("font")
    return write_bitmap_font(folder / "NotoColorEmoji.ttf", folder)


def decode(png):
    return np.asarray(Image.open(io.BytesIO(png)))


@pytest.mark.parametrize(
    ("text", "glyph"),
    [
        ("\U0001f34e", "apple"),
        ("❤️", "heart"),
        ("❤", "heart"),
        ("\U0001f1eb\U0001f1f7", "flag"),
        ("3️⃣", "keycap_three"),
        ("\U0001f44b\U0001f3fd", "medium_wave"),
        ("❤️‍\U0001f525", "burning_heart"),
    ],
)
def test_an_emoji_has_the_bitmap_of_its_glyph_or_ligature(tiny, text, glyph):
    font = read_font(tiny)
    np.testing.assert_array_equal(decode(font.find([ord(one) for one in text])), bitmap_of(glyph))


@pytest.mark.parametrize(
    "text",
    [
        "\U0001f680",  # a glyph without a bitmap
        "\U0001f1f7\U0001f1eb",  # two letters without a ligature
        "\U0001f34e\U0001f3fd",  # an apple and a swatch
        "\U0001f347",  # not in the font
        "️",
    ],
)
def test_what_the_font_does_not_draw_with_one_bitmap_is_absent(tiny, text):
    assert read_font(tiny).find([ord(one) for one in text]) is None


def test_the_longest_ligature_is_taken_from_the_first_glyph_on():
    ligatures = {("a", "b"): "ab", ("a", "b", "c"): "abc", ("c", "a"): "ca"}
    assert join_ligatures(["a", "b", "c", "a", "b", "x"], ligatures) == ["abc", "ab", "x"]
    assert join_ligatures(["a", "b", "d", "c", "a", "b"], ligatures) == ["ab", "d", "ca", "b"]


def test_the_small_font_is_genuine_to_freetype(tiny):
    font = ImageFont.truetype(str(tiny), PPEM, layout_engine=ImageFont.Layout.BASIC)
    canvas = Image.new("RGBA", (136, 128))
    ImageDraw.Draw(canvas).text((0, 0), "\U0001f34e", font=font, embedded_color=True)
    drawn = np.asarray(canvas)
    assert (drawn[8:-8, 8:-8, 3] == 255).any() and len(np.unique(drawn)) > 100


def test_the_font_is_found_as_a_file_or_below_a_folder(tiny, tmp_path):
    unpacked = tmp_path / "usr" / "share" / "fonts" / "NotoColorEmoji.ttf"
    unpacked.parent.mkdir(parents=True)
    unpacked.write_bytes(tiny.read_bytes())
    assert find_font(str(unpacked)) == find_font(tmp_path) == to_path(unpacked)


def test_a_missing_font_is_named_with_the_command_that_brings_it(tmp_path, monkeypatch):
    monkeypatch.setattr(noto_emoji, "PLACES", (str(tmp_path / "nowhere.ttf"),))
    for place in ("", tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UserError, match=rf"{tmp_path}.*apt-get install fonts-noto-color-emoji.*dpkg-deb -x"):
            find_font(place)


def test_a_font_without_bitmaps_is_refused(tmp_path):
    file = write_bitmap_font(tmp_path / "outlines.ttf", tmp_path, colour=False)
    with pytest.raises(UserError, match=r"outlines\.ttf .*CBDT.*fonts-noto-color-emoji"):
        read_font(to_path(file))


@pytest.mark.parametrize("keep", [0, 3, 300, 5000])
def test_a_file_cut_short_is_refused(tiny, tmp_path, keep):
    (tmp_path / "cut.ttf").write_bytes(tiny.read_bytes()[:keep])
    with pytest.raises(UserError, match=r"cut\.ttf is damaged.*fonts-noto-color-emoji"):
        read_font(to_path(tmp_path / "cut.ttf"))


def test_another_release_is_read_with_a_warning(tiny, caplog):
    with caplog.at_level("WARNING", logger="absl"):
        read_font(tiny)
    assert str(tiny) in caplog.text
