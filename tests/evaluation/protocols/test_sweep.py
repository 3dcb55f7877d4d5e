"""Sweeps: how they are written, which points they have, and what is refused."""

import pytest

from imagen_jax.errors import UserError
from imagen_jax.evaluation.protocols.sweep import label_of, list_points, parse_axis


def test_points_are_all_combinations_and_have_different_names():
    points = list_points([parse_axis("guidance=1,8/1.35,8/2"), parse_axis("sampler=ddim/ancestral,ddim")])
    assert len(points) == 6 and len({point.name for point in points}) == 6
    assert points[0].settings == {"guidance": [1.0, 8.0], "sampler": ["ddim"]}
    assert points[3].settings == {"guidance": [1.35, 8.0], "sampler": ["ancestral", "ddim"]}
    assert points[4].name == "guidance_2-sampler_ddim"


def test_a_line_holds_the_points_that_differ_in_the_first_setting():
    points = list_points([parse_axis("guidance=1/2"), parse_axis("steps=4/8")])
    assert [label_of(point) for point in points] == [
        ("1", "steps 4"), ("1", "steps 8"), ("2", "steps 4"), ("2", "steps 8")
    ]  # fmt: skip
    (alone,) = list_points([parse_axis("guidance=3")])
    assert label_of(alone) == ("3", "guidance")


@pytest.mark.parametrize(
    ("text", "fact"),
    [
        ("guidance", "--sweep=guidance"),
        ("guidance=", "--sweep=guidance="),
        ("guidance=1/two", "--sweep=guidance=1/two"),
        ("steps=1.5", r"--sweep=steps=1\.5"),
        ("guidance=1/1", "--sweep=guidance=1/1"),
        ("guidence=1/2", "guidance"),
    ],
)
def test_texts_that_can_not_be_parsed_are_named(text, fact):
    with pytest.raises(UserError, match=fact):
        parse_axis(text)


def test_a_setting_given_twice_is_refused():
    with pytest.raises(UserError, match=r"--sweep .*steps"):
        list_points([parse_axis("steps=1"), parse_axis("steps=2")])
