"""Prompts: the sets of templates, how they are filled, and classes that can't be told apart."""

import pytest

from imagen_jax.errors import UserError
from imagen_jax.evaluation.prompt_templates import (
    EMOJI,
    OPENAI_7,
    OPENAI_80,
    TEMPLATES,
    choose_templates,
    fill_template,
    make_prompts,
)


def test_each_set_has_distinct_templates_with_one_place():
    assert {name: len(set(templates)) for name, templates in TEMPLATES.items()} == {
        "bare": 1, "emoji": len(EMOJI), "openai_7": 7, "openai_80": 80,
    }  # fmt: skip
    assert all(template.count("{}") == 1 for templates in TEMPLATES.values() for template in templates)
    assert set(OPENAI_7) < set(OPENAI_80)


def test_a_template_is_filled_everywhere_and_other_braces_stay():
    assert fill_template("a {} or two {}s in {braces}", "{0}") == "a {0} or two {0}s in {braces}"


def test_prompts_are_words_in_templates():
    prompts = make_prompts({"pet": ("cat", "dog"), "bird": ("bird",)}, ["{}", "a drawing of a {}"])
    assert prompts.names == ("pet", "bird")
    assert prompts.prompts == (
        ("cat", "a drawing of a cat", "dog", "a drawing of a dog"),
        ("bird", "a drawing of a bird"),
    )
    assert prompts.list_distinct() == [*prompts.prompts[0], *prompts.prompts[1]]


def test_own_templates_replace_the_named_ones():
    assert choose_templates("openai_7") == OPENAI_7
    assert choose_templates("bare", ["my {}", "your {}"]) == ("my {}", "your {}")


@pytest.mark.parametrize(("name", "own"), [("emojis", ()), ("bare", ["a cat"]), ("bare", ["my {}", "my {}"])])
def test_templates_that_do_not_work_are_errors_of_the_user(name, own):
    with pytest.raises(UserError) as caught:
        choose_templates(name, own)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "words",
    [
        {},
        {"cat": ("cat",)},
        {"cat": ("cat",), "Cat": ("kitten",)},
        {"cat": ("cat", "Cat"), "dog": ("dog",)},
        {"cat": (), "dog": ("dog",)},
        {"cat": (" ",), "dog": ("dog",)},
        {"cat": ("cat", "dog"), "dog": ("dog", "cat")},
    ],
)
def test_classes_that_can_not_be_told_apart_are_errors_of_the_user(words):
    with pytest.raises(UserError):
        make_prompts(words, ["{}"])
