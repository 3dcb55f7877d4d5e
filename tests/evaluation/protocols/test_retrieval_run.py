"""Retrieval of a split with a network that knows three colours: numbers, report and page."""

import json

import pytest

from imagen_jax.data.stored_images import StoredImage
from imagen_jax.errors import UserError
from imagen_jax.evaluation.protocols.references import Reference
from imagen_jax.evaluation.protocols.retrieval_run import check_captions, describe_lines, make_report, run_retrieval
from imagen_jax.evaluation.reports.retrieval_page import write_retrieval
from tests.evaluation.colour_clip import ColourClip, png_of
from tests.evaluation.reports.html_outline import Outline, check_self_contained, image_of


def make_split():
    """Four images: two red ones of one caption, a green one with two captions, and a blue one with a wrong caption."""
    rows = [("red", ("red",)), ("red", ("Red",)), ("green", ("green", "a green thing")), ("blue", ("red light",))]
    stored = [
        StoredImage(f"{number}.png", captions, png_of(colour, 20)) for number, (colour, captions) in enumerate(rows)
    ]
    return Reference("colours, validation", "ab12", [one.captions for one in stored], stored.__getitem__)


@pytest.fixture(scope="module")
def run():
    reference = make_split()
    return run_retrieval(ColourClip(), reference, check_captions(reference), examples=3)


def test_the_numbers(run):
    assert run.pairs.captions == ("red", "green", "a green thing", "red light")
    images, captions = run.retrieval
    # Red images tie with "red light", which is wrong for them; all captions are equally far from the blue image.
    assert images.recall[1] == pytest.approx(1 / 4) and images.recall[5] == 1.0 and images.median_rank == 2
    # "red" has two right images, both the nearest; "red light" has three wrong ones before its own.
    assert captions.recall[1] == pytest.approx(3 / 4) and captions.queries == 4
    assert captions.chance[1] == pytest.approx((2 + 1 + 1 + 1) / 4 / 4)


def test_examples_have_the_nearest_items_and_mark_the_right_ones(run):
    assert len(run.of_images) == len(run.of_captions) == 3
    for one, right in ((run.of_images, run.pairs.captions_of), (run.of_captions, run.pairs.images_of)):
        for ranked in one:
            assert len(ranked.items) == 4
            assert list(ranked.is_right) == [item in right[ranked.query] for item in ranked.items]


def test_the_report_and_the_page(tmp_path, run):
    clip, reference = ColourClip(), make_split()
    report = make_report(clip, 10.0, reference, "validation", run, 0)
    write_retrieval(tmp_path, report, reference, run)
    stored = json.loads((tmp_path / "report.json").read_text())
    assert stored["image_to_text"]["recall_at_1"] == 0.25 and stored["data"]["distinct_captions"] == 4
    assert len(stored["headline"]) == 6 and all("chance" in one for one in stored["headline"])
    assert any("only 4 images" in warning for warning in stored["warnings"])
    outline = Outline((tmp_path / "report.html").read_text(encoding="utf-8"))
    check_self_contained(outline)
    assert len([image_of(image.attributes["src"]) for image in outline.all("img")]) == 3 + 3 * 4
    marked = [*outline.all("li", class_="right"), *outline.all("figure", class_="right")]
    assert len(marked) == sum(sum(one.is_right) for one in (*run.of_images, *run.of_captions))


def test_what_is_printed_has_both_directions_beside_chance(run):
    lines = describe_lines(run.retrieval)
    assert len(lines) == 3 and lines[0].count("chance") == 3
    assert "0.250" in lines[1] and "0.750" in lines[2] and "(4 among 4)" in lines[1]


@pytest.mark.parametrize("captions", [[("red",)], [("red",), ("RED",)], [("red",), ()]])
def test_splits_that_measure_nothing_are_errors_of_the_user(captions):
    with pytest.raises(UserError):
        check_captions(Reference("x", "", captions, make_split().read))
