"""Plots an image beside the probabilities of its classes."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from imagen_jax.array_types import HostPixels
from imagen_jax.errors import UserError
from imagen_jax.evaluation.reports.confusion_plot import shorten
from imagen_jax.storage.paths import Path, writing

MAX_BARS = 12


def plot_probabilities(
    image: HostPixels, probabilities: Float[np.ndarray, " classes"], names: Sequence[str], path: Path
) -> None:
    """Plots the image, and bars of its ``MAX_BARS`` most probable classes.

    Args:
        image: the image.
        probabilities: probability of each class.
        names: names of the classes.
        path: the PNG file.

    Raises:
        UserError: the file can't be written.
    """
    order = np.argsort(-probabilities, kind="stable")[:MAX_BARS]
    values = probabilities[order]
    figure = Figure(figsize=(8.0, max(2.6, 0.42 * len(order) + 0.9)), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.0, 1.6))
    left.imshow(image)
    left.axis("off")
    bars = right.barh(range(len(order)), values, color="#7fa8d1", height=0.68)
    right.bar_label(bars, [f"{value:.3f}" for value in values], padding=4, fontsize=9)
    right.set_yticks(range(len(order)), [shorten(names[index]) for index in order])
    right.invert_yaxis()
    right.set(xlim=(0.0, 1.14), xlabel="probability")
    right.set_xticks([0.0, 0.5, 1.0])
    right.tick_params(axis="y", length=0)
    right.spines[["top", "right", "left"]].set_visible(False)
    try:
        with writing(path) as file:
            figure.savefig(file, dpi=120)
    except OSError as error:
        raise UserError(f"{path} can't be written ({error}): make room or choose another folder") from error
