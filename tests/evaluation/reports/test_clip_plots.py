"""The pictures of confusions and of probabilities: any number of classes, names with dollars, unwritable places."""

import numpy as np
import pytest
from PIL import Image

from imagen_jax.errors import UserError
from imagen_jax.evaluation.reports.confusion_plot import MAX_NAMED, plot_confusion
from imagen_jax.evaluation.reports.probability_plot import MAX_BARS, plot_probabilities


def shades_of(path):
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB"), np.float64).mean(axis=2)


@pytest.mark.parametrize("classes", [2, 30, MAX_NAMED + 1])
def test_confusions_of_any_number_of_classes(tmp_path, classes):
    names = [f"$class$ {number} with a rather long name" for number in range(classes)]
    plot_confusion(np.eye(classes, dtype=int) * 7, names, tmp_path / "right.png")
    plot_confusion(np.eye(classes, dtype=int)[::-1] * 7, names, tmp_path / "wrong.png")
    right, wrong = shades_of(tmp_path / "right.png"), shades_of(tmp_path / "wrong.png")
    assert right.shape == wrong.shape and min(right.shape) > 300
    assert np.mean(np.abs(right - wrong) > 20) > 0.005, "the dark cells are elsewhere"


def test_a_class_without_images_has_an_empty_row(tmp_path):
    plot_confusion(np.asarray([[0, 0], [1, 2]]), ["a", "b"], tmp_path / "plot.png")
    assert np.all(np.isfinite(shades_of(tmp_path / "plot.png")))


@pytest.mark.parametrize("classes", [2, MAX_BARS + 5])
def test_probabilities_beside_the_image(tmp_path, classes):
    image = np.zeros((30, 50, 3), np.uint8)
    plot_probabilities(
        image, np.full(classes, 1 / classes), [f"$x$ {one}" for one in range(classes)], tmp_path / "p.png"
    )
    shades = shades_of(tmp_path / "p.png")
    assert np.mean(shades[:, : shades.shape[1] // 2] < 5) > 0.1, "the black image is on the left"


def test_a_place_that_can_not_be_written_is_an_error_of_the_user(tmp_path):
    with pytest.raises(UserError):
        plot_confusion(np.eye(2, dtype=int), ["a", "b"], tmp_path / "nowhere" / "plot.png")
    with pytest.raises(UserError):
        plot_probabilities(np.zeros((4, 4, 3), np.uint8), np.ones(1), ["a"], tmp_path / "nowhere" / "plot.png")
