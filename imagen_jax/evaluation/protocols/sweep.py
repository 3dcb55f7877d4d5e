"""Parses sweeps over sampling settings, such as guidance weights × augmentation levels × samplers × steps.

    --sweep=guidance=1,8/1.35,8/2,8 --sweep=augmentation_level=0/0.1 -> points -> OUT/points/NAME, an evaluation each
    -> OUT/sweep.json, OUT/pareto.png, OUT/pareto.svg

After an interruption, the same command continues and reuses the images of finished points.
"""

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from imagen_jax.errors import UserError, lookup

AXES = {
    "guidance": float,
    "augmentation_level": float,
    "sampler": str,
    "spacing": str,
    "steps": int,
    "gamma": float,
    "eta": float,
    "thresholding": str,
    "percentile": float,
}
"""Keys of ``config.sampling`` that a sweep may vary, with the types of their values."""

BETWEEN_VALUES = "/"
BETWEEN_STAGES = ","


class Point(NamedTuple):
    """One combination of settings.

    Attributes:
        settings: a list of values for each key of ``config.sampling``: one for all stages, or one for each.
        texts: values by key, as the user wrote them.
    """

    settings: dict[str, list[Any]]
    texts: dict[str, str]

    @property
    def name(self) -> str:
        """The name of the point's folder."""
        return "-".join(f"{axis}_{re.sub(r'[^0-9A-Za-z.]+', '_', text)}" for axis, text in self.texts.items())


class Axis(NamedTuple):
    """One setting of a sweep and its values.

    Attributes:
        name: key of ``AXES``.
        values: pairs of a value as a list (one for all stages, or one for each) and its text, as the user wrote it.
    """

    name: str
    values: list[tuple[list[Any], str]]


def parse_axis(text: str) -> Axis:
    """Parses ``NAME=VALUE/VALUE/…``. Each value is one for all stages, or one for each with commas between.

    Raises:
        UserError: the text has another form, no setting has that name, a value is given twice, or a value is no number
            where the setting needs one.
    """
    name, equals, values = text.partition("=")
    if not equals or not values:
        raise UserError(f"--sweep={text} has no values: write it as in --sweep=guidance=1/1.5/2")
    read = lookup(AXES, name.strip(), "setting of a sweep")
    alternatives = [value.strip() for value in values.split(BETWEEN_VALUES)]
    if len(set(alternatives)) < len(alternatives):
        raise UserError(f"--sweep={text} gives a value twice: give each once")
    try:
        return Axis(name.strip(), [([read(one) for one in text.split(BETWEEN_STAGES)], text) for text in alternatives])
    except ValueError:
        raise UserError(f"--sweep={text} has a value that is not a number: write --sweep={name}=1/2/4") from None


def list_points(axes: Sequence[Axis]) -> list[Point]:
    """Returns all combinations of the axes' values; the last axis varies fastest.

    Raises:
        UserError: an axis is given twice.
    """
    names = [axis.name for axis in axes]
    if len(set(names)) < len(names):
        raise UserError(
            f"--sweep names {max(names, key=names.count)} twice: give all its values once, with / between them"
        )
    points = []
    for combination in itertools.product(*(axis.values for axis in axes)):
        settings = {name: values for name, (values, _) in zip(names, combination, strict=True)}
        points.append(Point(settings, {name: text for name, (_, text) in zip(names, combination, strict=True)}))
    return points


def label_of(point: Point) -> tuple[str, str]:
    """Returns a point's label in the plot and the name of its line; points of a line differ only in the first axis."""
    first, *others = point.texts.items()
    return first[1], ", ".join(f"{name} {text}" for name, text in others) or first[0]


def summarise(point: Point, report: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a point's entry of ``sweep.json``: settings, folder and headline numbers."""
    return {"settings": point.texts, "folder": point.name, "headline": report["headline"]}
