"""What the command makes of its flags, and says of what it has made."""

import pytest

from imagen_jax.command_line import parse_options
from imagen_jax.data.parted_sources import PARTED_SOURCES, list_parts
from imagen_jax.data.preparation import Preparation, prepare
from imagen_jax.data.summary import format_manifest
from imagen_jax.errors import UserError
from tests.data.part_sources import parts


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
        "    px of the shorter side: 32, nine tenths from 32 to 32",
        "    width by height: 0.81, nine tenths from 0.81 to 0.81",
        "    words a caption: 3, nine tenths from 3 to 4",
        "    damaged: 1 image can't be decoded, 2 no caption, 1 not an image (quarantine.jsonl names them)",
        "    repeated: 2 files (repeated.jsonl names them)",
        "    Ours, CC0",
    ]
