r"""Linear probe: logistic regression on frozen features, the supervised counterpart of zero-shot classification.

    loss(W, b) = mean over images of -log softmax(W x + b)[label] + λ/2 ‖W‖²                              (1)

x is a feature vector of unit length, minus the mean of the training images, divided by one number, so that its entries
have mean square 1. The loss is convex, and L-BFGS minimises it in float64. λ is chosen by the log-loss on a part of the
*training* images that the fit does not see; the probe is then fitted to all training images. The test images are not
involved. Radford et al. 2021, section 3.2, fit theirs to features before CLIP's projection; ours are after it.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float64, Int
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

from imagen_jax.errors import UserError
from imagen_jax.evaluation.metrics.clip_score import unit

STRENGTHS = tuple(10.0**exponent for exponent in np.arange(1.0, -6.1, -0.5))
"""The values of λ to choose from, strongest first, so that each fit starts near its minimum."""

HELD_OUT = 0.2
"""Share of the training images, by groups, that chooses λ."""

PATIENCE = 2
"""Number of weaker λ in a row with a higher log-loss after which still weaker ones, which fit slowly, are not tried."""

MAX_STEPS = 500
TOLERANCE = 1e-4
"""A fit converges if no entry of the gradient is larger, or if the loss falls by less than ``MIN_FALL`` of itself."""

MIN_FALL = 1e-8


@dataclass(frozen=True)
class LinearProbe:
    """A fitted probe.

    Attributes:
        weights: W of equation (1).
        biases: b of equation (1).
        centre: mean of the training images' features of unit length.
        scale: the number that centred features are divided by.
        strength: λ.
        training_images: number of images of the fit.
        choosing_images: number of them that chose λ.
        converged: whether L-BFGS converged within ``MAX_STEPS`` steps.
        at_edge: whether λ is the first or the last of ``STRENGTHS``, so that another one may be better.
    """

    weights: Float64[np.ndarray, "classes features"]
    biases: Float64[np.ndarray, " classes"]
    centre: Float64[np.ndarray, " features"]
    scale: float
    strength: float
    training_images: int
    choosing_images: int
    converged: bool
    at_edge: bool

    def score(self, features: Float[np.ndarray, "images features"]) -> Float64[np.ndarray, "images classes"]:
        """Returns the logits W x + b of images.

        Raises:
            UserError: a feature vector is not finite or is zero.
        """
        return (unit(features) - self.centre) / self.scale @ self.weights.T + self.biases


class Fit(NamedTuple):
    """The minimum of equation (1).

    Attributes:
        weights: W.
        biases: b.
        converged: whether L-BFGS converged.
    """

    weights: Float64[np.ndarray, "classes features"]
    biases: Float64[np.ndarray, " classes"]
    converged: bool


def train_probe(
    features: Float[np.ndarray, "images features"],
    labels: Int[np.ndarray, " images"],
    classes: int,
    groups: Sequence[Hashable] | None = None,
    seed: int = 0,
) -> LinearProbe:
    """Fits a probe.

    Args:
        features: features of the training images, of any length.
        labels: class of each image, 0 to ``classes - 1``.
        classes: number of classes.
        groups: images of one group, such as those of one caption, choose λ together or not at all; by default each
            image is a group of its own.
        seed: seed of the choice of the images that choose λ.

    Raises:
        UserError: there are fewer than two groups, or a feature vector is not finite or is zero.
    """
    exact = unit(features)
    centre = exact.mean(axis=0)
    scale = float(np.sqrt(np.mean((exact - centre) ** 2))) or 1.0
    x = (exact - centre) / scale
    chooses = choose_groups(range(len(labels)) if groups is None else groups, seed)
    strength = choose_strength(x[~chooses], labels[~chooses], x[chooses], labels[chooses], classes)
    fit = fit_probe(x, labels, classes, strength)
    return LinearProbe(
        weights=fit.weights,
        biases=fit.biases,
        centre=centre,
        scale=scale,
        strength=strength,
        training_images=len(labels),
        choosing_images=int(chooses.sum()),
        converged=fit.converged,
        at_edge=strength in (STRENGTHS[0], STRENGTHS[-1]),
    )


def choose_groups(groups: Sequence[Hashable], seed: int) -> Bool[np.ndarray, " images"]:
    """Returns which images choose λ: those of a random ``HELD_OUT`` share of the groups, at least one of each kind.

    Raises:
        UserError: there are fewer than two groups.
    """
    numbers: dict[Hashable, int] = {}
    of_image = np.asarray([numbers.setdefault(group, len(numbers)) for group in groups], np.int64)
    if len(numbers) < 2:
        raise UserError(f"a linear probe needs at least two different training images, not {len(numbers)}: add images")
    count = min(max(1, round(HELD_OUT * len(numbers))), len(numbers) - 1)
    return np.isin(of_image, np.random.default_rng(seed).permutation(len(numbers))[:count])


def choose_strength(
    x: Float64[np.ndarray, "images features"],
    labels: Int[np.ndarray, " images"],
    held_out: Float64[np.ndarray, "others features"],
    held_out_labels: Int[np.ndarray, " others"],
    classes: int,
) -> float:
    """Returns the λ of ``STRENGTHS`` whose fit to the images has the lowest log-loss on the held-out ones.

    It tries them from the strongest on, and stops when ``PATIENCE`` of them in a row are worse than the best.

    Args:
        x: centred and scaled features of the images of the fit.
        labels: their classes.
        held_out: such features of the held-out images.
        held_out_labels: their classes.
        classes: number of classes.
    """
    losses = []
    fit: Fit | None = None
    for strength in STRENGTHS:
        fit = fit_probe(x, labels, classes, strength, fit)
        logs = log_softmax(held_out @ fit.weights.T + fit.biases, axis=1)
        losses.append(-float(np.mean(logs[np.arange(len(held_out_labels)), held_out_labels])))
        if len(losses) - 1 - int(np.argmin(losses)) >= PATIENCE:
            break
    return STRENGTHS[int(np.argmin(losses))]


def fit_probe(
    x: Float64[np.ndarray, "images features"],
    labels: Int[np.ndarray, " images"],
    classes: int,
    strength: float,
    start: Fit | None = None,
) -> Fit:
    """Minimises equation (1) by L-BFGS.

    Args:
        x: centred and scaled features.
        labels: class of each image.
        classes: number of classes.
        strength: λ.
        start: where to start; zero by default.
    """
    count, width = x.shape
    one_hot = np.eye(classes)[labels]

    def loss_and_gradient(flat: np.ndarray) -> tuple[float, np.ndarray]:
        parameters = flat.reshape(classes, width + 1)
        weights, biases = parameters[:, :-1], parameters[:, -1]
        logits = x @ weights.T + biases
        loss = -float(np.sum(log_softmax(logits, axis=1) * one_hot)) / count + strength / 2 * float(np.sum(weights**2))
        error = (softmax(logits, axis=1) - one_hot) / count
        gradient = np.concatenate([error.T @ x + strength * weights, error.sum(axis=0)[:, None]], axis=1)
        return loss, gradient.ravel()

    first = np.zeros((classes, width + 1))
    if start is not None:
        first = np.concatenate([start.weights, start.biases[:, None]], axis=1)
    options = {"maxiter": MAX_STEPS, "maxfun": 2 * MAX_STEPS, "gtol": TOLERANCE, "ftol": MIN_FALL}
    found = minimize(loss_and_gradient, first.ravel(), jac=True, method="L-BFGS-B", options=options)
    parameters = found.x.reshape(classes, width + 1)
    return Fit(parameters[:, :-1], parameters[:, -1], bool(found.success))
