"""The trade-off's plot: which points are best, labels beside each other, equal files for equal points."""

import math
import re
import xml.etree.ElementTree

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

from imagen_jax.errors import UserError
from imagen_jax.evaluation.reports.label_places import Box, place_labels
from imagen_jax.evaluation.reports.pareto import ParetoPoint, draw_groups, pareto_optimal, plot_pareto, write_labels

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
    assert list(lines) == [*(f"augmentation {level:g}" for level in LEVELS), "Pareto-optimal"]
    for level in LEVELS:
        members = [point for point in points if point.group == f"augmentation {level:g}"]
        np.testing.assert_array_equal(lines[f"augmentation {level:g}"].get_xdata(), [point.x for point in members])
        np.testing.assert_array_equal(lines[f"augmentation {level:g}"].get_ydata(), [point.y for point in members])
    filled = [line for line in axis.lines if line.get_linestyle() == "None" and line.get_label().startswith("_")]
    shown = {pair for line in filled for pair in zip(line.get_xdata(), line.get_ydata(), strict=True)}
    assert shown == {(point.x, point.y) for point, best in zip(points, pareto_optimal(points), strict=True) if best}


def test_labels_of_a_sweep_hide_neither_each_other_nor_a_point(axis):
    points = sweep()
    draw_groups(axis, points)
    write_labels(axis.figure, axis, points)
    axis.figure.canvas.draw()
    assert [text.get_text() for text in axis.texts] == [point.label for point in points]
    boxes = [text.get_window_extent() for text in axis.texts]
    positions = axis.transData.transform([(point.x, point.y) for point in points])
    for number, (box, position) in enumerate(zip(boxes, positions, strict=True)):
        assert not any(box.overlaps(other) for other in boxes[:number])
        assert not any(box.contains(*other) for other in positions)
        nearest = np.clip(position, (box.x0, box.y0), (box.x1, box.y1))
        assert np.linalg.norm(position - nearest) < 90, "near its own point"


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


def test_a_line_through_a_box_is_seen():
    box = Box(0.0, 0.0, 2.0, 1.0)
    generator = np.random.default_rng(0)
    for start, end in generator.uniform(-2, 4, (200, 2, 2)):
        along = start + np.linspace(0, 1, 2_001)[:, None] * (end - start)
        inside = ((along > (0, 0)) & (along < (2, 1))).all(axis=1)
        crossed = box.is_crossed_by(tuple(start.tolist()), tuple(end.tolist()))
        assert crossed == inside.any() or inside.sum() < 3, "but for a corner that is only touched"
    assert box.is_crossed_by((1.0, -1.0), (1.0, 5.0)) and not box.is_crossed_by((3.0, -1.0), (3.0, 5.0))


def test_a_crowd_keeps_its_labels_on_the_sheet_and_apart():
    points = [(50.0 + 9 * column, 50.0 + 25 * row) for row in range(3) for column in range(3)]
    boxes = place_labels(points, [(14.0, 9.0)] * len(points), [], Box(0.0, 0.0, 200.0, 200.0), 8.0)
    for number, box in enumerate(boxes):
        assert Box(0.0, 0.0, 200.0, 200.0).holds(box)
        assert (round(box.right - box.left, 6), round(box.top - box.bottom, 6)) == (14.0, 9.0)
        assert not any(box.overlaps(other) for other in boxes[:number])
