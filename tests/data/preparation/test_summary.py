"""What the command makes of its flags, and says of what it has made."""

import re

import numpy as np
import pytest

from imagen_jax.data.preparation.conversion import Conversion
from imagen_jax.data.preparation.preparation import Preparation, prepare
from imagen_jax.data.preparation.summary import format_duration, format_manifest, format_size
from imagen_jax.data.sources.parted_sources import PARTED_SOURCES, list_parts
from imagen_jax.errors import UserError
from imagen_jax.runtime.main import parse_options
from tests.data.part_sources import encode, listed, parts, record


def test_options_have_the_types_of_their_defaults():
    given = ["count=12", "encoding=png"]
    assert parse_options(PARTED_SOURCES["synthetic"].list_all, given) == {"count": 12, "encoding": "png"}
    assert parse_options(PARTED_SOURCES["coco"].list_all, ["folder=a=b"]) == {"folder": "a=b"}


@pytest.mark.parametrize(
    ("source", "given", "told"),
    [
        ("synthetic", ["counts=3"], "unknown option 'counts' of data source 'synthetic'.*'count'"),
        ("synthetic", ["count=many"], "count=many is no whole number"),
        ("synthetic", ["count"], "--option=count has no value"),
        ("coco", [], "needs the option 'folder'"),
        ("cocoa", [], "unknown data source 'cocoa'.*'coco'"),
    ],
)
def test_a_mistake_says_what_is_right(source, given, told):
    with pytest.raises(UserError, match=told):
        list_parts(source, parse_options(PARTED_SOURCES.get(source, PARTED_SOURCES["coco"]).list_all, given))


def test_what_was_made_is_said_in_a_few_lines(tmp_path):
    manifest = prepare(Preparation("pictures", {}, "Ours, CC0", parts(40)), tmp_path, workers=0)
    manifest["repeated"] = {"keys": 0, "files": 2}
    first, *rest = format_manifest(manifest, "DATA")
    assert first.startswith("DATA: 34 train, 2 validation images in ")
    assert rest == [
        "    shorter side: 32 to 32 px, median 32, nine tenths from 32 to 32",
        "    width by height: 0.8 to 0.8, median 0.8, nine tenths from 0.8 to 0.8",
        "    words of a caption: 3 to 4, median 3, nine tenths from 3 to 4",
        "    damaged: 1 image can't be decoded, 2 no caption, 1 not an image (quarantine.jsonl names them)",
        "    repeated: 2 files (repeated.jsonl names them)",
        "    Ours, CC0",
    ]


@pytest.mark.parametrize("seed", range(5))
def test_sizes_are_those_of_the_images(tmp_path, seed):
    generator = np.random.default_rng(seed)
    sizes = [tuple(int(side) for side in generator.integers(8, 200, 2)) for _ in range(9)]
    records = [record(number, encoded=encode(draw_blocks(number, *size))) for number, size in enumerate(sizes)]
    prepared = Preparation("pictures", {}, "Ours", [listed(records)], Conversion(validation_fraction=0.0))
    told = " ".join(format_manifest(prepare(prepared, tmp_path, workers=0), "DATA"))
    sides = sorted(min(size) for size in sizes)
    aspects = sorted(width / height for width, height in sizes)
    assert f"shorter side: {sides[0]} to {sides[-1]} px, median {sides[4]}," in told
    least, most, median = (float(one) for one in re.search(r"height: (\S+) to (\S+), median (\S+),", told).groups())
    np.testing.assert_allclose([least, median, most], [aspects[0], aspects[4], aspects[-1]], rtol=0.006)


def draw_blocks(number, width, height):
    return np.random.default_rng(number).integers(0, 256, (height, width, 3), np.uint8)


def test_ranges_of_older_data_sets_are_not_told_as_values(tmp_path):
    manifest = prepare(Preparation("pictures", {}, "Ours, CC0", parts(40)), tmp_path, workers=0)
    manifest["statistics"] = {"side": {"96": 3}, "aspect": {"1.32": 3}, "words": {"3": 3}}
    told = " ".join(format_manifest(manifest, "DATA"))
    assert "words of a caption: 3 to 3" in told and "96" not in told and "1.32" not in told


@pytest.mark.parametrize(
    ("size", "told"), [(0, "0 bytes"), (999, "999 bytes"), (26_214, "26.2 kB"), (5 * 10**9, "5 GB")]
)
def test_a_size_is_never_told_as_nothing(size, told):
    assert format_size(size) == told


@pytest.mark.parametrize(("seconds", "told"), [(2.0, "2.0 seconds"), (90.0, "1.5 minutes"), (36_000.0, "10.0 hours")])
def test_a_short_time_is_not_told_as_no_hours(seconds, told):
    assert format_duration(seconds) == told
