"""Plots a confusion matrix."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int
from matplotlib.figure import Figure

from imagen_jax.errors import UserError
from imagen_jax.storage.paths import Path, writing

MAX_COUNTED = 24
"""Max number of classes for which each cell shows its number of images."""

MAX_NAMED = 60
"""Max number of classes for which the axes show names."""

MAX_NAME_LENGTH = 22
COLOURS = "Blues"
DARK = 0.55
"""Share from which on the colour is so dark that the number is white."""


def plot_confusion(confusion: Int[np.ndarray, "classes classes"], names: Sequence[str], path: Path) -> None:
    """Plots the share of each class's images that are classified as each class, and their numbers.

    Args:
        confusion: number of images of each class (row) that are classified as each class (column).
        names: names of the classes.
        path: the PNG file.

    Raises:
        UserError: the file can't be written.
    """
    classes, sizes = len(names), confusion.sum(axis=1)
    shares = confusion / np.maximum(sizes, 1)[:, None]
    side = max(4.0, min(0.56 * classes, 12.0)) if classes <= MAX_NAMED else 9.0
    figure = Figure(figsize=(side + 2.6, side + 1.5), layout="constrained")
    axis = figure.subplots()
    image = axis.imshow(shares, cmap=COLOURS, vmin=0.0, vmax=1.0)
    figure.colorbar(image, ax=axis, shrink=0.7, label="share of the class's images")
    if classes <= MAX_NAMED:
        shown = [shorten(name) for name in names]
        axis.set_xticks(range(classes), shown, rotation=40, ha="right", rotation_mode="anchor", fontsize=9)
        axis.set_yticks(
            range(classes), [f"{name} ({size})" for name, size in zip(shown, sizes, strict=True)], fontsize=9
        )
    else:
        axis.set_xticks([])
        axis.set_yticks([])
    if classes <= MAX_COUNTED:
        for row, column in np.argwhere(confusion):
            colour = "white" if shares[row, column] > DARK else "black"
            axis.text(column, row, str(confusion[row, column]), ha="center", va="center", color=colour, fontsize=9)
    axis.set(xlabel="classified as", ylabel="class (its number of images)")
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    try:
        with writing(path) as file:
            figure.savefig(file, dpi=120)
    except OSError as error:
        raise UserError(f"{path} can't be written ({error}): make room or choose another folder") from error


def shorten(name: str) -> str:
    """Returns a name for an axis: not too long, and with dollars escaped, since two of them enclose a formula."""
    shown = name if len(name) <= MAX_NAME_LENGTH else f"{name[: MAX_NAME_LENGTH - 1]}…"
    return shown.replace("$", r"\$")
