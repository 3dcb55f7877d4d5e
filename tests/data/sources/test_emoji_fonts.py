import json
import pickle

import numpy as np
import pytest
from PIL import Image

from imagen_jax.data.classes import CLASSES, NO_CLASS
from imagen_jax.data.pixels import decode_pixels, resize_area, to_image, to_pixels
from imagen_jax.data.preparation.builder import prepare_data
from imagen_jax.data.preparation.conversion import Conversion
from imagen_jax.data.preparation.preparation import Preparation, prepare
from imagen_jax.data.sources import emoji_fonts, fluent_emoji, noto_emoji
from imagen_jax.data.sources.emoji_fonts import ATTRIBUTION, emoji_images, emoji_parts, render_bitmap
from imagen_jax.data.sources.emoji_keys import STYLES, code_points_of, make_key, read_code_points, style_of
from imagen_jax.data.sources.openmoji import openmoji_images
from imagen_jax.data.sources.openmoji_groups import group_of
from imagen_jax.data.sources.parted_sources import list_parts
from imagen_jax.data.sources.sources import list_images
from imagen_jax.data.splits import SPLITS
from imagen_jax.data.stored_images import captions_of, load_split
from imagen_jax.errors import UserError
from tests.data.conftest import noise, png_of
from tests.data.sources.tiny_emoji_fonts import FLUENT, bitmap_of, fluent_image, write_bitmap_font, write_fluent_package

BOTH = ("noto", "fluent")


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """The options that name a small Noto font and a small package of Fluent."""
    noto, fluent = tmp_path_factory.mktemp("noto"), tmp_path_factory.mktemp("fluent")
    write_bitmap_font(noto / "NotoColorEmoji.ttf", noto)
    return {"noto": str(noto), "fluent": str(write_fluent_package(fluent))}


@pytest.fixture
def tiny(packages, monkeypatch):
    """The same, with the checksum of the small package in place of the release's."""
    files = fluent_emoji.find_images(packages["fluent"])
    contents = [(file.name, file.read_bytes()) for file in files]
    monkeypatch.setattr(fluent_emoji, "IMAGES_SHA256", fluent_emoji.checksum_of_images(contents))
    return packages


@pytest.fixture
def few_openmoji(monkeypatch):
    """Apple, rocket, and waving hands of all skin tones, in place of all drawings."""
    drawings = [one for one in openmoji_images(skin_tones=True) if one.key.split("-")[0] in ("1F34E", "1F680", "1F44B")]

    def list_few(skin_tones):
        return [one for one in drawings if skin_tones or "1F3F" not in one.key]

    monkeypatch.setattr(emoji_fonts.openmoji, "openmoji_images", list_few)


def test_fonts_are_joined_by_code_point(tiny, few_openmoji):
    images = emoji_images(**tiny)
    assert [(image.key, image.caption) for image in images] == [
        ("0033-20E3-noto", "keycap 3"),
        ("1F1EB-1F1F7-noto", "France"),
        ("1F34E-fluent", "red apple"),
        ("1F34E-noto", "red apple"),
        ("1F34E-openmoji", "red apple"),
        ("1F44B-fluent", "waving hand"),
        ("1F44B-noto", "waving hand"),
        ("1F44B-openmoji", "waving hand"),
        ("1F525-noto", "fire"),
        ("1F680-fluent", "rocket"),
        ("1F680-openmoji", "rocket"),
        ("2764-200D-1F525-noto", "heart on fire"),
        ("2764-fluent", "red heart"),
        ("2764-noto", "red heart"),
    ]


def test_a_second_caption_names_the_style(tiny, few_openmoji, tmp_path):
    apples = [one.captions for one in emoji_images(**tiny, name_styles=True) if one.key.startswith("1F34E")]
    assert apples == [("red apple", f"{word} red apple") for word in ("3D", "shaded", "flat")]
    options = {**tiny, "name_styles": True}
    folder = prepare_data("emoji_fonts", 16, tmp_path, 0.0, **options)
    stored = [one.captions for one in load_split(folder, "train")]
    assert stored == captions_of(folder, "train") and apples[0] in stored
    records = [record.captions for part in emoji_parts(**options) for record in part.read()]
    assert sorted(records) == sorted(stored)
    assert folder != prepare_data("emoji_fonts", 16, tmp_path, 0.0, **tiny)


def test_skin_tones_stay_with_their_concept(tiny, few_openmoji):
    plain, toned = emoji_images(**tiny), emoji_images(**tiny, skin_tones=True)
    added = {image.key: image for image in toned if image.key not in {one.key for one in plain}}
    # OpenMoji has all five tones of the hand; the small fonts have one, which Fluent's name calls medium, and Noto the
    # swatch.
    assert len(added) == 5 + 1 + 2 and {"1F44B-1F3FC-fluent", "1F44B-1F3FD-noto", "1F3FD-noto"} < added.keys()
    hands = {image.concept for image in toned if image.key.startswith("1F44B")}
    assert hands == {"waving hand"}


def test_the_order_of_the_fonts_changes_nothing(tiny):
    one, other = (emoji_images(fonts, **tiny) for fonts in ("noto, fluent", ["fluent", "noto"]))
    assert [image.key for image in one] == [image.key for image in other]
    assert {style_of(image.key) for image in emoji_images("fluent", **tiny)} == {"fluent"}


@pytest.mark.parametrize("fonts", ["", (), "noto,noto", ("noto", "fluent", "noto")])
def test_no_font_or_one_twice_is_refused(tiny, fonts):
    with pytest.raises(UserError, match="font"):
        emoji_images(fonts, **tiny)


def test_an_unknown_font_is_named_with_the_nearest(tiny):
    with pytest.raises(UserError, match=r"'notto'.*'noto'"):
        emoji_images("notto", **tiny)


@pytest.mark.parametrize("resolution", [1, 17, 32, 68, 136])
def test_bitmaps_are_squares_on_white_and_area_means(tiny, resolution):
    apple = next(image for image in emoji_images("noto", **tiny) if image.key == "1F34E-noto")
    rgba = np.full((136, 136, 4), 0.0)
    rgba[4:-4] = bitmap_of("apple") / 255
    white = rgba[..., :3] * rgba[..., 3:] + 1 - rgba[..., 3:]
    # The mean over an area is a product with the share of each old pixel in each new one.
    edges = np.arange(resolution + 1) * 136 / resolution
    shares = np.clip(
        np.minimum(edges[1:, None], np.arange(1, 137)) - np.maximum(edges[:-1, None], np.arange(136)), 0, 1
    )
    shares *= resolution / 136
    expected = np.einsum("yh,hxc->yxc", shares, np.einsum("xw,hwc->hxc", shares, white)) * 255
    np.testing.assert_allclose(apple.render(resolution), expected, atol=0.51)


def test_larger_images_than_the_file_are_enlarged_and_never_beyond_its_colours():
    flat = png_of(np.full((8, 8, 3), [10, 200, 90], np.uint8))
    assert (render_bitmap(flat, 21) == [10, 200, 90]).all()
    enlarged = render_bitmap(png_of(noise(0, 16)), 64)
    assert enlarged.shape == (64, 64, 3) and enlarged.dtype == np.uint8
    smooth = np.asarray(Image.fromarray(noise(0, 16)).resize((64, 64), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(enlarged, smooth)


def test_an_oblong_image_gets_white_margins():
    pixels = np.zeros((3, 9, 3), np.uint8)
    square = render_bitmap(png_of(pixels), 9)
    assert (square[3:6] == 0).all() and (square[:3] == 255).all() and (square[6:] == 255).all()


def test_fluent_is_read_from_its_files(tiny):
    images = {image.key: image for image in emoji_images("fluent", **tiny)}
    np.testing.assert_array_equal(images["2764-fluent"].render(256), fluent_image("2764-fe0f"))
    expected = to_pixels(resize_area(to_image(fluent_image("1f680")), 32))
    np.testing.assert_array_equal(images["1F680-fluent"].render(32), expected)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("1f44b-1f3fd", "1F44B-1F3FC"),
        ("1f44b-1f3fc", "1F44B-1F3FD"),
        ("1f44b-1f3ff", "1F44B-1F3FF"),
        ("1f468-1f3fc-200d-1f4bb", "1F468-1F3FC-200D-1F4BB"),
        ("1f469-1f3fd-200d-2764-fe0f-200d-1f468-1f3fd", "1F469-1F3FD-200D-2764-200D-1F468-1F3FD"),
        ("1f6b5-1f3fb", "1F6B5-1F3FF"),
        ("1f6b5-1f3fb-200d-2640-fe0f", "1F6B5-1F3FB-200D-2640"),
        ("1f44b", "1F44B"),
    ],
)
def test_skin_tones_are_those_that_fluent_shows(name, shown):
    assert fluent_emoji.correct_tones(read_code_points(name)) == read_code_points(shown)


@pytest.mark.parametrize("place", ["", "assets", "/node_modules/@lobehub/fluent-emoji-3d", "/package"])
def test_fluent_is_found_where_npm_puts_it(packages, tmp_path, place):
    folder = packages["fluent"]
    if place.startswith("/"):
        (tmp_path / place[1:]).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place[1:]).symlink_to(folder)
        found = fluent_emoji.find_images(tmp_path)
    else:
        found = fluent_emoji.find_images(f"{folder}/{place}")
    assert [file.name for file in found] == sorted(f"{name}.webp" for name in FLUENT)


def test_a_missing_package_is_named_with_the_command_that_brings_it(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(fluent_emoji, "PLACES", (str(tmp_path / "nowhere"),))
    for place in ("", tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UserError, match=r"npm install @lobehub/fluent-emoji-3d@1\.1\.0"):
            emoji_images("fluent", fluent=place)


def test_changed_images_are_refused(packages):
    with pytest.raises(UserError, match=r"1\.1\.0.*npm install"):
        emoji_images("fluent", **packages)


def test_parts_have_style_licence_and_attribution_of_each_record(tiny, few_openmoji):
    parts = pickle.loads(pickle.dumps(list_parts("emoji_fonts", {**tiny, "resolution": 16, "images_per_part": 5})))
    assert [len(list(part.read())) for part in parts] == [5, 5, 4]
    records = {record.key: record for part in parts for record in part.read()}
    images = {image.key: image for image in list_images("emoji_fonts", tiny)}
    assert records.keys() == images.keys()
    for key, record in records.items():
        assert (record.captions, record.concept) == ((images[key].caption,), images[key].concept)
        np.testing.assert_array_equal(decode_pixels(record.encoded), images[key].render(16))
        assert record.metadata["style"] == key.rpartition("-")[2] and record.metadata["width"] == 16
        assert record.metadata["attribution"] in ATTRIBUTION
    licences = {record.metadata["style"]: record.metadata["license"] for record in records.values()}
    assert licences == {"openmoji": "CC BY-SA 4.0", "noto": noto_emoji.LICENCE, "fluent": "MIT"}


def test_a_fingerprint_follows_resolution_and_fonts(tiny):
    def fingerprints(**options):
        return {part.fingerprint for part in emoji_parts(fonts=BOTH, **tiny | options)}

    assert fingerprints() == fingerprints(resolution=256)
    assert not fingerprints() & fingerprints(resolution=64)
    assert not fingerprints() & fingerprints(skin_tones=True)


@pytest.mark.parametrize("options", [{"resolution": 0}, {"resolution": 4097}, {"images_per_part": 0}])
def test_impossible_parts_are_refused(options):
    with pytest.raises(UserError):
        emoji_parts(**options)


def test_what_is_prepared_is_what_the_rendered_source_renders(tiny, tmp_path):
    options = {"fonts": "noto,fluent", "skin_tones": True, **tiny}
    parts = list_parts("emoji_fonts", {**options, "resolution": 24, "images_per_part": 4})
    rules = Conversion(validation_fraction=0.4)
    prepare(Preparation("emoji_fonts", {}, ATTRIBUTION, parts, rules, "keys"), tmp_path / "prepared", workers=2)
    rendered = prepare_data("emoji_fonts", 24, tmp_path, 0.4, **options)
    manifest = json.loads((rendered / "manifest.json").read_text(encoding="utf-8"))
    assert all(credit in manifest["attribution"] for _, credit in emoji_fonts.CREDITS.values())
    concepts = {}
    for split in SPLITS:
        ours, theirs = load_split(tmp_path / "prepared", split), load_split(rendered, split)
        assert [(one.key, one.captions) for one in ours] == [(one.key, one.captions) for one in theirs]
        for one, other in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(decode_pixels(one.encoded), decode_pixels(other.encoded))
            concepts.setdefault(one.key.split("-")[0], set()).add(split)
    assert all(len(splits) == 1 for emoji, splits in concepts.items() if emoji != "2764"), "styles stay together"


def test_keys_tell_style_and_code_points():
    assert make_key((0x23, 0x20E3), "noto") == "0023-20E3-noto"
    assert style_of("1F34E-noto") == "noto" and style_of("1F1EB-1F1F7-openmoji") == "openmoji"
    assert code_points_of("1F34E-noto") == code_points_of("1F34E") == (0x1F34E,)
    for key in ("1F34E", "a panda-noto", "noto", "-noto", "1F34E-twitter", ""):
        assert style_of(key) is None
    for key in ("a panda-noto", "1F34E-twitter", "", "folder/image.png"):
        assert code_points_of(key) == ()


def test_groups_and_styles_are_classes_of_these_keys():
    for style in STYLES:
        assert group_of(f"1F34E-{style}") == "Food & Drink" and group_of(f"1F1EB-1F1F7-{style}") == "Flags"
        assert CLASSES["emoji_styles"].names[CLASSES["emoji_styles"].label_of(f"1F34E-{style}")] == style
    assert group_of("1F3FB-noto") is None and CLASSES["openmoji_groups"].label_of("cat-noto") == NO_CLASS
    assert CLASSES["emoji_styles"].label_of("cat") == NO_CLASS
