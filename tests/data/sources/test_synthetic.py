import io
import pickle
import re

import numpy as np
import pytest
from PIL import Image

from imagen_jax.data.sources.synthetic import COLOURS, SHAPES, synthetic_parts
from imagen_jax.errors import UserError

CAPTION = re.compile(r"(an?) (\w+) (\w+) on (an?) (\w+) ground")

# Of the box around it, how much a shape fills, and how wide the box is for its height.
FILLED_AND_ASPECT = {
    "bar": (1, 3.8),
    "diamond": (1 / 2, 1),
    "disc": (np.pi / 4, 1),
    "pillar": (1, 1 / 3.8),
    "ring": (np.pi / 4 * (1 - (5 / 9) ** 2), 1),
    "square": (1, 1),
    "triangle": (1 / 2, 1),
}


def read_all(**options):
    return [record for part in synthetic_parts(**options) for record in part.read()]


def decode(record):
    with Image.open(io.BytesIO(record.encoded)) as image:
        return image.format, np.asarray(image.convert("RGB")).astype(int)


@pytest.fixture(scope="module")
def drawings():
    """Shape, colour, ground and pixels of each."""
    records = read_all(count=150, resolution=128, encoding="png")
    words = [CAPTION.fullmatch(record.captions[0]) for record in records]
    assert all(words)
    return [(*match.group(3, 2, 5), decode(record)[1]) for match, record in zip(words, records, strict=True)]


def test_colours_are_as_the_caption_says(drawings):
    for _, colour, ground, pixels in drawings:
        # As whole numbers, of which NumPy finds the distinct ones much faster than of triples.
        colours, counts = np.unique(pixels.astype(int) @ (2**16, 2**8, 1), return_counts=True)
        two = {tuple(int(colours[index]).to_bytes(3)) for index in np.argsort(counts)[-2:]}
        assert two == {COLOURS[colour], COLOURS[ground]} and colour != ground
        assert tuple(pixels[0, 0]) == tuple(pixels[-1, -1]) == COLOURS[ground]


def test_shapes_are_as_the_caption_says(drawings):
    assert {shape for shape, *_ in drawings} == set(SHAPES) == set(FILLED_AND_ASPECT)
    for shape, colour, ground, pixels in drawings:
        difference = np.array(COLOURS[colour]) - np.array(COLOURS[ground])
        covered = (pixels - COLOURS[ground]) @ difference / (difference @ difference)
        rows, columns = (np.flatnonzero((covered > 0.5).any(axis)) for axis in (1, 0))
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        filled, aspect = FILLED_AND_ASPECT[shape]
        assert covered.sum() / (width * height) == pytest.approx(filled, rel=0.12)
        assert width / height == pytest.approx(aspect, rel=0.15)
        # A triangle lies on its base; the others are the same upside down.
        centre = (covered.sum(1) @ np.arange(128)) / covered.sum()
        below = (centre - (rows[0] + rows[-1]) / 2) / height
        assert below == pytest.approx(1 / 6 if shape == "triangle" else 0, abs=0.03)


def test_articles_suit_their_words():
    captions = {record.captions[0] for record in read_all(count=200, resolution=8)}
    words = {pair for caption in captions for pair in re.findall(r"\b(an?) (\w+)", caption)}
    assert ("an", "orange") in words and ("a", "orange") not in words and ("a", "red") in words


def test_an_image_follows_from_seed_and_number_alone():
    few, many = read_all(count=3, seed=5), read_all(count=20, seed=5, images_per_part=6)
    assert many[:3] == few
    assert len({record.key for record in many}) == 20
    others = read_all(count=20, seed=6)
    assert {record.key for record in many}.isdisjoint(record.key for record in others)
    assert [record.captions for record in many] != [record.captions for record in others]


def test_parts_have_their_sizes_and_travel():
    parts = pickle.loads(pickle.dumps(synthetic_parts(count=7, images_per_part=3, resolution=8)))
    assert [len(list(part.read())) for part in parts] == [3, 3, 1]
    assert len({part.name for part in parts}) == len({part.fingerprint for part in parts}) == 3


def test_a_part_holds_no_list_of_records():
    assert len(pickle.dumps(synthetic_parts(count=10**9, images_per_part=10**9))) < 1000


@pytest.mark.parametrize("change", [{"resolution": 16}, {"seed": 1}, {"encoding": "png"}, {"count": 5}])
def test_a_fingerprint_follows_every_option(change):
    options = {"count": 4, "resolution": 8}
    assert synthetic_parts(**options)[0].fingerprint != synthetic_parts(**{**options, **change})[0].fingerprint


def test_jpeg_is_nearly_png():
    for exact, near in zip(read_all(count=8, encoding="png"), read_all(count=8), strict=True):
        (png, exact_pixels), (jpeg, near_pixels) = decode(exact), decode(near)
        assert (png, jpeg) == ("PNG", "JPEG") and exact_pixels.shape == near_pixels.shape == (64, 64, 3)
        assert abs(exact_pixels - near_pixels).mean() < 3
        assert exact.metadata == {"width": 64, "height": 64} and exact.concept == exact.captions[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoding": "jpg"}, "encoding.*'jpg'.*'jpeg'"),
        ({"count": 0}, "count.*0.*1"),
        ({"resolution": 4}, "resolution.*4.*8"),
        ({"images_per_part": 0}, "images_per_part.*0.*1"),
        ({"seed": -1}, "seed.*-1"),
    ],
)
def test_options_out_of_range_are_named(options, message):
    with pytest.raises(UserError, match=message):
        synthetic_parts(**options)
