"""Classification of a split with a network that knows three colours: numbers, prompts, probe, report and page."""

import json

import numpy as np
import pytest
from PIL import Image

from imagen_jax.data.classes import NO_CLASS
from imagen_jax.errors import UserError
from imagen_jax.evaluation.prompt_templates import OWN, TEMPLATES
from imagen_jax.evaluation.protocols.classification import (
    ClassifyRequest,
    LabelledSplit,
    describe_lines,
    list_variants,
    make_report,
    run_classification,
)
from imagen_jax.evaluation.protocols.image_labels import choose_labeller, list_labels, make_wordings
from imagen_jax.evaluation.reports.classification_page import SHOWN, choose, write_classification
from tests.evaluation.colour_clip import ColourClip, make_reference
from tests.evaluation.reports.html_outline import Outline, check_self_contained, image_of

WORDS = {"red": ("red",), "green": ("green", "a green one"), "blue": ("blue",)}
WORDINGS = make_wordings(tuple(WORDS), {}, WORDS)
TWO = make_wordings(("red", "blue"))
TRUE, BELIED = 30, 200


def split(colours, shades, name="validation", words=WORDS):
    reference = make_reference(colours, shades, f"colours, {name}")
    return LabelledSplit(reference, list_labels(reference, choose_labeller("folders", "", tuple(words))), name)


@pytest.fixture(scope="module")
def request_of_colours():
    colours = ["red"] * 4 + ["green"] * 3 + ["blue"] * 2
    shades = [TRUE, TRUE, TRUE, BELIED, TRUE, TRUE, TRUE, TRUE, TRUE]
    training = split(["red", "green", "blue"] * 8, [TRUE + number for number in range(24)], "train")
    return ClassifyRequest(WORDINGS, ("{}", "a {} thing"), OWN, split(colours, shades), training)


@pytest.fixture(scope="module")
def found(request_of_colours):
    clip = ColourClip()
    return run_classification(clip, clip.logit_scale, request_of_colours)


def test_the_right_images_are_right(found):
    assert found.accuracy.accuracy == pytest.approx(8 / 9)
    assert found.predicted.tolist()[:3] == [0, 0, 0] and found.predicted[3] != 0
    assert np.diag(found.accuracy.confusion).tolist() == [3, 3, 2]
    assert (found.accuracy.majority, found.accuracy.majority_class) == (pytest.approx(4 / 9), "red")
    np.testing.assert_allclose(found.probabilities.sum(axis=1), 1.0)


def test_the_probe_learns_from_the_training_split(found):
    assert found.probe_accuracy.accuracy == pytest.approx(8 / 9) and found.probe.training_images == 24
    assert found.probe_accuracy.images == 9


def test_simpler_prompts_are_measured_too(found):
    assert [(one.name, one.prompts) for one in found.results] == [
        ("class names", 3), ("class words", 4), ("class names in templates", 6), ("class words in templates", 8),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("wordings", "templates", "names"),
    [
        (TWO, ("{}",), ["class names"]),
        (TWO, TEMPLATES["openai_7"], ["class names", "class names in templates"]),
        (WORDINGS, ("{}",), ["class names", "class words"]),
    ],
)
def test_only_different_prompts_are_measured(wordings, templates, names):
    assert list(list_variants(wordings, templates)) == names


def test_each_distinct_prompt_is_embedded_once(request_of_colours):
    clip = ColourClip()
    run_classification(clip, 1.0, request_of_colours)
    assert len(clip.encoded) == len(set(clip.encoded))
    assert set(clip.encoded) >= {"red", "a red thing", "a green one", "a a green one thing"}


def test_images_without_a_class_are_left_out_and_counted():
    words = {"red": ("red",), "blue": ("blue",)}
    tested = split(["red", "green", "blue"], [TRUE] * 3, words=words)
    assert tested.labels.tolist() == [0, NO_CLASS, 1]
    request, clip = ClassifyRequest(TWO, ("{}",), "bare", tested), ColourClip()
    found = run_classification(clip, 1.0, request)
    report = make_report(clip, 1.0, request, found)
    assert found.accuracy.images == 2 and report["data"]["without_class"] == 1
    assert found.probe is None and report["probe"] == {}
    assert any(warning.startswith("1 of 3 images") for warning in report["warnings"])


def test_a_damaged_image_is_an_error_that_names_it(request_of_colours):
    reference = make_reference(["red", "blue"], [TRUE, TRUE])
    stored = [reference.read(0), reference.read(1)._replace(encoded=b"damaged")]
    damaged = type(reference)(reference.name, "", reference.captions, stored.__getitem__)
    request = ClassifyRequest(TWO, ("{}",), "bare", LabelledSplit(damaged, np.asarray([0, 1]), "validation"))
    with pytest.raises(UserError, match=r"blue/1\.png"):
        run_classification(ColourClip(), 1.0, request)


def test_the_report_and_the_page(tmp_path, request_of_colours, found):
    clip = ColourClip()
    report = make_report(clip, clip.logit_scale, request_of_colours, found)
    write_classification(tmp_path, report, request_of_colours, found)
    stored = json.loads((tmp_path / "report.json").read_text())
    assert stored["accuracy"]["accuracy"] == pytest.approx(8 / 9, rel=1e-5)
    assert stored["confusion"] == found.accuracy.confusion.tolist()
    assert stored["clip"]["sha256"] == "ab12" and stored["prompts"]["texts"] == ["{}", "a {} thing"]
    assert [one["name"] for one in stored["classes"]] == list(WORDS)
    with Image.open(tmp_path / "confusion.png") as picture:
        assert picture.format == "PNG" and min(picture.size) > 300
    outline = Outline((tmp_path / "report.html").read_text(encoding="utf-8"))
    check_self_contained(outline)
    images = [image_of(image.attributes["src"]) for image in outline.all("img")]
    assert len(images) == 1 + 9, "the confusions, and all nine images"
    (section,) = outline.all("section", id="classes")
    assert [row.text for row in outline.all("tr", within=section)][1].startswith("red430.750 ± 0.217")
    (examples,) = outline.all("section", id="examples")
    wrong = [one.text for one in outline.all("p", within=examples) if one.text.startswith(("✓", "✗"))]
    assert len(wrong) == 2 and wrong[1].startswith("✓ red")


def test_hostile_names_are_escaped(tmp_path):
    wordings = make_wordings(("<script>alert('red')</script>", "$x$ & blue"))
    reference = make_reference(["red", "blue"], [TRUE, TRUE])
    request = ClassifyRequest(wordings, ("{}",), "bare", LabelledSplit(reference, np.asarray([0, 1]), "validation"))
    clip = ColourClip()
    found = run_classification(clip, 1.0, request)
    write_classification(tmp_path, make_report(clip, 1.0, request, found), request, found)
    check_self_contained(Outline((tmp_path / "report.html").read_text(encoding="utf-8")))


def test_examples_depend_on_the_seed_alone():
    marked = np.arange(100) % 2 == 0
    chosen = choose(marked, 3)
    assert len(chosen) == SHOWN and np.all(marked[chosen]) and chosen.tolist() == sorted(chosen.tolist())
    assert chosen.tolist() == choose(marked, 3).tolist() != choose(marked, 4).tolist()


def test_what_is_printed_has_chance_and_the_probe(found):
    lines = describe_lines(found)
    assert "0.889" in lines[0] and "0.333" in lines[1] and "'red' 0.444" in lines[1]
    assert "probe 0.889" in lines[2]
    assert len(lines) == 3 + 4 + 1 + 3


def test_training_images_and_few_images_are_warned_of(request_of_colours, found):
    clip = ColourClip()
    tested = request_of_colours.tested._replace(split="train")
    report = make_report(clip, 1.0, ClassifyRequest(WORDINGS, ("{}",), "bare", tested), found)
    assert any("training images" in warning for warning in report["warnings"])
    assert any("only 9 images" in warning for warning in report["warnings"])
