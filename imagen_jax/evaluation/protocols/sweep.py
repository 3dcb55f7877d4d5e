"""Settings that are tried against each other: guidance weights × augmentation levels × samplers × steps.

    --sweep=guidance=1,8/1.35,8/2,8 --sweep=augmentation_level=0/0.1 -> points -> OUT/points/NAME, an evaluation each
    -> OUT/sweep.json, OUT/pareto.png, OUT/pareto.svg

Points that are there are kept: the same command continues.
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
"""Keys of ``config.sampling`` that a sweep may vary, and how their values are read."""

BETWEEN_VALUES = "/"
BETWEEN_STAGES = ","


class Point(NamedTuple):
    """One combination of settings.

    Attributes:
        settings: values of keys of ``config.sampling``, a list each: one for all stages, or one for each.
        texts: the same as they were written.
    """

    settings: dict[str, list[Any]]
    texts: dict[str, str]

    @property
    def name(self) -> str:
        """Of its folder."""
        return "-".join(f"{axis}_{re.sub(r'[^0-9A-Za-z.]+', '_', text)}" for axis, text in self.texts.items())


class Axis(NamedTuple):
    """One setting and the values that it takes.

    Attributes:
        name: a key of ``AXES``.
        values: of each, the list of what the stages take, and how it was written.
    """

    name: str
    values: list[tuple[list[Any], str]]


def parse_axis(text: str) -> Axis:
    """Reads ``NAME=VALUE/VALUE/…``, each value one for all stages or one for each, with commas between.

    Raises:
        UserError: it is not written so, no setting has that name, or a value is no number where one is wanted.
    """
    name, equals, values = text.partition("=")
    if not equals or not values:
        raise UserError(f"--sweep={text} names no values: write it as in --sweep=guidance=1/1.5/2")
    read = lookup(AXES, name.strip(), "setting of a sweep")
    alternatives = [value.strip() for value in values.split(BETWEEN_VALUES)]
    if len(set(alternatives)) < len(alternatives):
        raise UserError(f"--sweep={text} gives a value twice: give each once")
    try:
        return Axis(name.strip(), [([read(one) for one in text.split(BETWEEN_STAGES)], text) for text in alternatives])
    except ValueError:
        raise UserError(f"--sweep={text} has a value that is no number: write it as in --sweep={name}=1/2/4") from None


def list_points(axes: Sequence[Axis]) -> list[Point]:
    """All combinations, the last axis varying fastest.

    Raises:
        UserError: an axis is given twice.
    """
    names = [axis.name for axis in axes]
    if len(set(names)) < len(names):
        raise UserError(
            f"--sweep names {max(names, key=names.count)} twice: give all its values at once, with / between"
        )
    points = []
    for combination in itertools.product(*(axis.values for axis in axes)):
        settings = {name: values for name, (values, _) in zip(names, combination, strict=True)}
        points.append(Point(settings, {name: text for name, (_, text) in zip(names, combination, strict=True)}))
    return points


def label_of(point: Point) -> tuple[str, str]:
    """What to write beside a point, and the line that it belongs to: those of one line differ in the first axis."""
    first, *others = point.texts.items()
    return first[1], ", ".join(f"{name} {text}" for name, text in others) or first[0]


def summarise(point: Point, report: Mapping[str, Any]) -> dict[str, Any]:
    """A line of ``sweep.json``: settings and headline numbers."""
    return {"settings": point.texts, "folder": point.name, "headline": report["headline"]}
