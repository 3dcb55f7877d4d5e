"""The trade-off's plot: which points are best, a shape for each label, equal files for equal points."""

import math
import re
import xml.etree.ElementTree

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

from imagen_jax.errors import UserError
from imagen_jax.evaluation.reports.pareto import ParetoPoint, draw_groups, pareto_optimal, plot_pareto

WEIGHTS = (1, 1.25, 1.5, 2, 3, 5, 8, 10)
LEVELS = (0.0, 0.1, 0.3)


def sweep():
    """A curve as guidance gives it: FID falls, then rises, while the CLIP score rises ever slower."""
    return [
        ParetoPoint(
            f"{weight:g}",
            0.24 + 0.05 * (1 - math.exp(-weight / 2)) - 0.004 * level,
            9 + 6 * level + 22 * math.exp(-2 * (weight - 1)) + 0.9 * weight,
            f"augmentation {level:g}",
        )
        for level in LEVELS
        for weight in WEIGHTS
    ]


def test_the_best_points_are_those_that_no_other_beats():
    points = [
        ParetoPoint("", float(x), float(y))
        for x, y in ((1, 5), (2, 3), (2, 4), (3, 3), (4, 9), (0, 5), (3, 3), (4, 9.5))
    ]
    assert pareto_optimal(points) == [False, False, False, True, True, False, True, False]


def test_best_points_by_sorting():
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(2, 200)).round(1)
    # From the largest x on, a point is best where its y is below all that came before.
    best = set()
    lowest = math.inf
    for value in sorted(set(x), reverse=True):
        lowest_here = y[x == value].min()
        if lowest_here < lowest:
            best.add((value, lowest_here))
            lowest = lowest_here
    points = [ParetoPoint("", float(a), float(b)) for a, b in zip(x, y, strict=True)]
    assert pareto_optimal(points) == [(a, b) in best for a, b in zip(x, y, strict=True)]


@pytest.mark.thorough
def test_equal_points_give_equal_files_of_both_kinds(tmp_path):
    files = [plot_pareto(sweep(), tmp_path / name / "guidance_1.5", "CLIP score", "FID") for name in make(tmp_path)]
    (png, svg), (other_png, other_svg) = files
    assert (png.name, svg.name) == ("guidance_1.5.png", "guidance_1.5.svg")
    assert png.read_bytes() == other_png.read_bytes() and svg.read_bytes() == other_svg.read_bytes()
    with Image.open(png) as image:
        assert image.format == "PNG" and image.width > 1000 and not {"Software", "date"} & set(image.info)
    text = svg.read_text(encoding="utf-8")
    assert xml.etree.ElementTree.fromstring(text).tag.endswith("svg") and not re.search(
        r"<dc:date|\d\d:\d\d:\d\d", text
    )
    assert plt.get_fignums() == []


def make(folder):
    for name in ("one", "two"):
        (folder / name).mkdir()
        yield name


@pytest.fixture
def axis():
    figure, axis = plt.subplots(figsize=(8, 6), dpi=150, layout="constrained")
    yield axis
    plt.close(figure)


def test_each_group_is_a_line_in_the_order_given_and_best_points_are_filled(axis):
    points = sweep()
    draw_groups(axis, points)
    lines = {line.get_label(): line for line in axis.lines if not line.get_label().startswith("_")}
    named = [*(f"augmentation {level:g}" for level in LEVELS), *(f"{weight:g}" for weight in WEIGHTS), "Pareto-optimal"]
    assert list(lines) == named
    for level in LEVELS:
        members = [point for point in points if point.group == f"augmentation {level:g}"]
        np.testing.assert_array_equal(lines[f"augmentation {level:g}"].get_xdata(), [point.x for point in members])
        np.testing.assert_array_equal(lines[f"augmentation {level:g}"].get_ydata(), [point.y for point in members])
    filled = [line for line in axis.lines if line.get_markerfacecolor() != "white" and line.get_label().startswith("_")]
    shown = {pair for line in filled for pair in zip(line.get_xdata(), line.get_ydata(), strict=True)}
    assert shown == {(point.x, point.y) for point, best in zip(points, pareto_optimal(points), strict=True) if best}


def test_the_legend_names_the_line_and_the_shape_of_each_point(axis):
    points = sweep()
    draw_groups(axis, points)
    (legend,) = axis.figure.legends
    keys = {text.get_text(): line for text, line in zip(legend.get_texts(), legend.get_lines(), strict=True)}
    for point in points:
        (shown,) = [line for line in axis.lines if line.get_xydata().tolist() == [[point.x, point.y]]]
        assert shown.get_marker() == keys[point.label].get_marker()
        assert keys[point.group].get_color() in (shown.get_markerfacecolor(), shown.get_markeredgecolor())
    assert len({keys[f"{weight:g}"].get_marker() for weight in WEIGHTS}) == len(WEIGHTS)
    assert len({(keys[group].get_color(), keys[group].get_linestyle()) for group in {p.group for p in points}}) == 3


@pytest.mark.parametrize("count", [1, 40])
def test_the_legend_is_on_the_sheet_and_beside_the_plot(axis, count):
    draw_groups(axis, [ParetoPoint(f"weight {number}", float(number), 1.0, f"{number % 3}") for number in range(count)])
    axis.figure.canvas.draw()
    extent = axis.figure.legends[0].get_window_extent()
    width, height = axis.figure.canvas.get_width_height()
    assert axis.get_window_extent().x1 <= extent.x0 and extent.x1 <= width and extent.y0 >= 0 and extent.y1 <= height


@pytest.mark.thorough
def test_labels_are_letters_and_no_formulas(tmp_path):
    points = [ParetoPoint("$\\frac", 1.0, 2.0, "$group_"), ParetoPoint("5 $", 2.0, 1.0, "other $")]
    plot_pareto(points, tmp_path / "odd", "x $\\bad", "y_$")
    assert (tmp_path / "odd.svg").exists()


@pytest.mark.parametrize("points", [[ParetoPoint("1", 0.2, 9.0)], [ParetoPoint("1", 0.2, 9.0)] * 3])
def test_a_single_position_is_plotted(tmp_path, points):
    plot_pareto(points, tmp_path / "one", "x", "y")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.png", "one.svg"]


def test_points_that_can_not_be_plotted_are_named(tmp_path):
    with pytest.raises(UserError):
        plot_pareto([], tmp_path / "none", "x", "y")
    with pytest.raises(UserError, match=r"'base 1\.5'.*0\.2, nan"):
        plot_pareto([ParetoPoint("1.5", 0.2, math.nan, "base")], tmp_path / "none", "x", "y")
    with pytest.raises(UserError, match=r"none/one\.png"):
        plot_pareto([ParetoPoint("1.5", 0.2, 1.0)], tmp_path / "none" / "one", "x", "y")
    assert list(tmp_path.iterdir()) == [] and plt.get_fignums() == []
