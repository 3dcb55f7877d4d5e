"""The emoji of the three fonts, of the real packages."""

import io
from collections import Counter
from itertools import islice

import emoji
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont, features

from imagen_jax.data.sources.emoji_fonts import emoji_images
from imagen_jax.data.sources.emoji_keys import SKIN_TONES, STYLES, code_points_of, has_skin_tone, style_of
from imagen_jax.data.sources.fluent_emoji import find_images
from imagen_jax.data.sources.noto_emoji import find_font, read_font
from imagen_jax.data.sources.openmoji import read_names
from imagen_jax.data.sources.openmoji_groups import group_of
from imagen_jax.errors import UserError
from tests.data.sources.tiny_emoji_fonts import PPEM

pytestmark = pytest.mark.references


def find_or_skip(find):
    try:
        return find()
    except UserError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def noto():
    return find_or_skip(find_font)


@pytest.fixture(scope="module")
def fluent():
    return find_or_skip(find_images)


@pytest.fixture(scope="module")
def all_images(noto, fluent):
    return emoji_images(skin_tones=True)


@pytest.mark.skipif(not features.check("raqm"), reason="Pillow was built without Raqm, which joins sequences")
@pytest.mark.parametrize(("start", "step"), [(0, 40), pytest.param(1, 2, marks=pytest.mark.thorough)])
def test_bitmaps_are_those_that_harfbuzz_and_freetype_draw(noto, start, step):
    font, drawer = read_font(noto), ImageFont.truetype(str(noto), PPEM, layout_engine=ImageFont.Layout.RAQM)
    texts = {tuple(ord(one) for one in text if one != "\ufe0f"): text for text in emoji.EMOJI_DATA}
    compared = 0
    for code_points in islice(read_names(emoji), start, None, step):
        png = font.find(code_points)
        if png is not None:
            drawn = Image.new("RGB", (136, 160), "white")
            ImageDraw.Draw(drawn).text((0, 0), texts[code_points], font=drawer, embedded_color=True)
            layer = Image.open(io.BytesIO(png)).convert("RGBA")
            ours = Image.new("RGB", (136, 160), "white")
            ours.paste(layer, (0, 0), layer)
            # FreeType composites with another rounding.
            difference = np.abs(np.asarray(ours).astype(int) - np.asarray(drawn))
            assert difference.max() <= 1, texts[code_points]
            compared += 1
    assert compared > 60


@pytest.mark.parametrize(("style", "plain", "toned"), [("noto", 1902, 3797), ("fluent", 1607, 3127)])
def test_a_font_has_so_many_named_emoji(style, plain, toned, request):
    request.getfixturevalue(style)
    images = emoji_images(style, skin_tones=True)
    assert len(images) == len({image.key for image in images}) == toned
    assert sum(not has_skin_tone(code_points_of(image.key)) for image in images) == plain


def test_1607_emoji_have_three_styles(all_images):
    assert Counter(style_of(image.key) for image in all_images) == {"openmoji": 3953, "noto": 3797, "fluent": 3127}
    plain = [image for image in all_images if not has_skin_tone(code_points_of(image.key))]
    assert Counter(Counter(image.caption for image in plain).values()) == {3: 1607, 2: 295, 1: 16}


def test_all_styles_of_an_emoji_have_one_concept_and_group(all_images):
    concepts, groups = {}, {}
    for image in all_images:
        concepts.setdefault(code_points_of(image.key), set()).add(image.concept)
        groups.setdefault(image.concept, set()).add(group_of(image.key))
    assert len(concepts) == 3953 and len(groups) == 1919
    assert all(len(each) == 1 for each in [*concepts.values(), *groups.values()])


def test_the_styles_of_an_emoji_are_different_images_of_the_same(all_images):
    apples = {style_of(image.key): image.render(32).astype(int) for image in all_images if image.caption == "red apple"}
    assert apples.keys() == set(STYLES)
    for style, apple in apples.items():
        assert (apple[[0, 0, -1, -1], [0, -1, 0, -1]] == 255).all()
        red, green, blue = apple[16, 16]
        assert red > 180 and green < 120 and blue < 120
        assert all(np.abs(apple - other).mean() > 4 for name, other in apples.items() if name != style)


@pytest.mark.parametrize("style", STYLES)
def test_darker_skin_tones_are_darker_images(all_images, style):
    tones = {}
    for image in all_images:
        code_points = code_points_of(image.key)
        found = {point for point in code_points if point in SKIN_TONES}
        if style_of(image.key) == style and len(found) == 1:
            bare = tuple(0 if point in found else point for point in code_points)
            tones.setdefault(bare, {})[found.pop()] = image
    rows = [each for bare, each in tones.items() if len(each) == 5 and len(bare) > 1]
    # Every seventh, and the person mountain biking, whose order is its own in the package of Fluent.
    rows = [*rows[::7], *(each for bare, each in tones.items() if bare == (0x1F6B5, 0))]
    assert len(rows) > 40
    for row in rows:
        brightness = [row[tone].render(24).mean() for tone in SKIN_TONES]
        # With medium-light skin comes blond hair, so the second may be brighter than the first. Noto's snowboarder is
        # covered.
        assert row[0x1F3FB].caption.startswith("snowboarder") or brightness[1] > brightness[2] > brightness[4]
        assert brightness[0] >= brightness[2] and brightness[3] >= brightness[4] - 0.5
