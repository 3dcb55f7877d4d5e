import json
import pickle
import sys

import numpy as np
import pytest

from imagen_jax.data.pixels import decode_pixels
from imagen_jax.data.preparation.builder import prepare_data
from imagen_jax.data.preparation.conversion import Conversion
from imagen_jax.data.preparation.preparation import Preparation, prepare
from imagen_jax.data.sources import openmoji
from imagen_jax.data.sources.emoji_keys import read_code_points
from imagen_jax.data.sources.openmoji import concept_of, openmoji_images, openmoji_parts
from imagen_jax.data.sources.parted_sources import list_parts
from imagen_jax.data.sources.sources import SOURCES, Source
from imagen_jax.data.splits import SPLITS
from imagen_jax.data.stored_images import load_split
from imagen_jax.errors import UserError


@pytest.fixture(scope="module")
def plain():
    return openmoji_images()


@pytest.fixture(scope="module")
def toned():
    return openmoji_images(skin_tones=True)


def test_there_are_1918_named_drawings_and_3953_with_skin_tones(plain, toned):
    assert len(plain) == len({image.key for image in plain}) == 1918
    assert len(toned) == len({image.key for image in toned}) == 3953
    assert [image.key for image in plain] == sorted(image.key for image in plain)


@pytest.mark.parametrize(
    ("key", "caption"),
    [
        ("1F34E", "red apple"),
        ("1F43C", "panda"),
        ("0033-FE0F-20E3", "keycap 3"),
        ("2764", "red heart"),
        ("1F1EB-1F1F7", "France"),
    ],
)
def test_captions_are_the_names_of_the_emoji(plain, key, caption):
    assert [image.caption for image in plain if image.key == key] == [caption]


def test_variation_selectors_do_not_count():
    assert read_code_points("2764-FE0F") == read_code_points("2764") == (0x2764,)


def test_skin_tone_variants_share_the_concept_of_the_plain_drawing(plain, toned):
    waves = {image.key: image.concept for image in toned if image.key.split("-")[0] == "1F44B"}
    assert len(waves) == 6 and set(waves.values()) == {"waving hand"}
    plain_concepts = {image.concept for image in plain}
    # Of the variants only the five bare swatches have no plain drawing.
    swatches = {image.key for image in toned if image.concept not in plain_concepts}
    assert swatches == {"1F3FB", "1F3FC", "1F3FD", "1F3FE", "1F3FF"}


def test_both_tones_of_a_pair_leave_its_concept():
    assert concept_of("men holding hands light skin tone medium-dark skin tone") == "men holding hands"
    assert concept_of("kiss person person light skin tone dark skin tone") == "kiss"
    assert concept_of("medium skin tone") == "skin tone"
    assert concept_of("light bulb") == "light bulb"


@pytest.mark.parametrize("resolution", [17, 64])
def test_drawings_lie_on_white_at_the_requested_resolution(plain, resolution):
    apple = next(image for image in plain if image.caption == "red apple").render(resolution)
    assert apple.shape == (resolution, resolution, 3) and apple.dtype == np.uint8
    assert (apple[[0, 0, -1, -1], [0, -1, 0, -1]] == 255).all()
    red, green, blue = apple[resolution // 2, resolution // 2].astype(int)
    assert red > 200 and green < 120 and blue < 120


@pytest.mark.parametrize("resolution", [16, 32, 64, 128])
def test_a_small_drawing_is_the_mean_of_a_large_one(plain, resolution):
    panda = next(image for image in plain if image.caption == "panda")
    large = panda.render(1024).reshape(resolution, 1024 // resolution, resolution, -1, 3).mean((1, 3))
    # Drawn by resvg at 32 px itself, strokes are so faint that this is 7.
    assert np.abs(large - panda.render(resolution)).mean() < 1


def test_a_missing_package_is_named_with_the_line_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    with pytest.raises(UserError, match=r"resvg_py.*pip install .*\[openmoji\]"):
        openmoji_images()


def test_drawings_of_another_release_are_refused(monkeypatch, tmp_path):
    (tmp_path / "1F34E.svg").write_text("<svg/>", encoding="utf-8")
    with pytest.raises(UserError, match=r"17\.0\.0.*pip install"):
        openmoji.check_drawings([tmp_path / "1F34E.svg"])


@pytest.fixture
def few(monkeypatch, toned):
    """Sixty drawings, some with a skin tone, in place of all."""
    images = toned[1400:1460]
    monkeypatch.setattr(openmoji, "openmoji_images", lambda skin_tones: images)
    monkeypatch.setitem(SOURCES, "openmoji", Source(lambda: images, openmoji.ATTRIBUTION))
    return images


def test_what_is_prepared_is_what_the_rendered_source_renders(few, tmp_path):
    parts = openmoji_parts(resolution=24, images_per_part=25)
    rules = Conversion(validation_fraction=0.3)
    # Worker processes, so parts, drawings and all travel.
    manifest = prepare(
        Preparation("openmoji", {}, openmoji.ATTRIBUTION, parts, rules, "keys"), tmp_path / "prepared", workers=2
    )
    assert "CC BY-SA 4.0" in manifest["attribution"]
    rendered = prepare_data("openmoji", 24, tmp_path, 0.3)
    assert json.loads((rendered / "manifest.json").read_text(encoding="utf-8"))["counts"] == manifest["counts"]
    for split in SPLITS:
        ours, theirs = load_split(tmp_path / "prepared", split), load_split(rendered, split)
        assert len(ours) == len(theirs) > 0
        for one, other in zip(ours, theirs, strict=True):
            assert (one.key, one.captions) == (other.key, other.captions)
            np.testing.assert_array_equal(decode_pixels(one.encoded), decode_pixels(other.encoded))


def test_records_have_keys_captions_concepts_and_the_licence(few):
    records = [record for part in openmoji_parts(8, images_per_part=7) for record in part.read()]
    assert [(one.key, one.captions, one.concept) for one in records] == [
        (image.key, (image.caption,), image.concept) for image in few
    ]
    assert len({record.concept for record in records}) < len(records), "skin tones share one"
    assert all(one.metadata == {"width": 8, "height": 8, "license": "CC BY-SA 4.0"} for one in records)


def test_parts_hold_all_drawings_and_travel(plain, toned):
    parts = list_parts("openmoji", {})
    assert len(parts) == 20 and len({part.name for part in parts}) == 20
    record = next(pickle.loads(pickle.dumps(parts[3])).read())
    assert (record.key, record.captions) == (plain[300].key, (plain[300].caption,))
    np.testing.assert_array_equal(decode_pixels(record.encoded), plain[300].render(256))
    assert len(list_parts("openmoji", {"skin_tones": True})) == 40


def test_a_fingerprint_follows_the_resolution_and_the_drawings(few):
    def fingerprints(**options):
        return [part.fingerprint for part in openmoji_parts(images_per_part=30, **options)]

    assert fingerprints() == fingerprints(resolution=256)
    assert not set(fingerprints()) & set(fingerprints(resolution=255))
    before = fingerprints()
    few.pop()
    after = fingerprints()
    assert before[0] == after[0] and before[1] != after[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resolution": 0}, r"\b0\b.*\b4096\b"),
        ({"resolution": 4097}, r"\b4097\b.*\b4096\b"),
        ({"images_per_part": 0}, "images_per_part.*0"),
    ],
)
def test_impossible_parts_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        openmoji_parts(**options)
