"""The command's options, and its summary of a data set."""

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
    ("source", "given", "named"),
    [
        ("synthetic", ["counts=3"], "'counts'.*'synthetic'.*'count'"),
        ("synthetic", ["count=many"], "count=many"),
        ("synthetic", ["count"], "--option=count=VALUE"),
        ("coco", [], "'coco'.*'folder'"),
        ("cocoa", [], "'cocoa'.*'coco'"),
    ],
)
def test_a_mistake_names_the_option(source, given, named):
    with pytest.raises(UserError, match=named):
        list_parts(source, parse_options(PARTED_SOURCES.get(source, PARTED_SOURCES["coco"]).list_all, given))


def test_a_data_set_is_summarised_in_a_few_lines(tmp_path):
    manifest = prepare(Preparation("pictures", {}, "Ours, CC0", parts(40)), tmp_path, workers=0)
    manifest["repeated"] = {"keys": 0, "files": 2}
    first, *rest = format_manifest(manifest, "DATA")
    assert first.startswith("DATA: 34 train, 2 validation images in ")
    assert rest == [
        "    shorter side: 32 to 32 px, median 32, 90% between 32 and 32",
        "    width by height: 0.8 to 0.8, median 0.8, 90% between 0.8 and 0.8",
        "    words of a caption: 3 to 4, median 3, 90% between 3 and 4",
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
    text = " ".join(format_manifest(prepare(prepared, tmp_path, workers=0), "DATA"))
    sides = sorted(min(size) for size in sizes)
    aspects = sorted(width / height for width, height in sizes)
    assert f"shorter side: {sides[0]} to {sides[-1]} px, median {sides[4]}," in text
    lowest, highest, median = (float(one) for one in re.search(r"height: (\S+) to (\S+), median (\S+),", text).groups())
    np.testing.assert_allclose([lowest, median, highest], [aspects[0], aspects[4], aspects[-1]], rtol=0.006)


def draw_blocks(number, width, height):
    return np.random.default_rng(number).integers(0, 256, (height, width, 3), np.uint8)


def test_ranges_of_older_data_sets_are_not_values(tmp_path):
    manifest = prepare(Preparation("pictures", {}, "Ours, CC0", parts(40)), tmp_path, workers=0)
    manifest["statistics"] = {"side": {"96": 3}, "aspect": {"1.32": 3}, "words": {"3": 3}}
    text = " ".join(format_manifest(manifest, "DATA"))
    assert "words of a caption: 3 to 3" in text and "96" not in text and "1.32" not in text


@pytest.mark.parametrize(
    ("size", "expected"), [(0, "0 bytes"), (999, "999 bytes"), (26_214, "26.2 kB"), (5 * 10**9, "5 GB")]
)
def test_a_size_is_never_zero_of_a_unit(size, expected):
    assert format_size(size) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"), [(2.0, "2.0 seconds"), (90.0, "1.5 minutes"), (36_000.0, "10.0 hours")]
)
def test_a_short_time_is_not_zero_hours(seconds, expected):
    assert format_duration(seconds) == expected
