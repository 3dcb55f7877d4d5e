r"""The Inception Score (Salimans et al. 2016, section 4): are images distinct, and of many classes?

    IS = exp( E_x KL( p(y|x) ‖ p(y) ) ),    p(y) = E_x p(y|x)                                            (1)

It uses no reference images. It is at most the number of classes. Published scores use the logits of the Inception-v3 of
2015, and are the mean over ten parts of the images.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from imagen_jax.errors import UserError
from imagen_jax.evaluation.metrics.frechet import check_finite

SPLITS = 10
SEED = 2020


@dataclass(frozen=True)
class InceptionScore:
    """The score, and how it was measured.

    Attributes:
        score: the mean of equation (1) over the parts, from 1 to the number of classes.
        standard_deviation: the standard deviation over the parts.
        splits: the number of parts.
        pictures: the number of images in all parts together.
    """

    score: float
    standard_deviation: float
    splits: int
    pictures: int

    def as_dict(self) -> dict[str, Any]:
        """Returns the fields by name."""
        return asdict(self)


def inception_score(
    logits: Float[np.ndarray, "images classes"], splits: int = SPLITS, seed: int = SEED
) -> InceptionScore:
    """Computes the Inception Score over parts of the shuffled images, as torch-fidelity does.

    Args:
        logits: class scores before the softmax.
        splits: the number of parts.
        seed: the seed of the shuffle. Unshuffled images may be sorted by class, so that parts would have few classes.

    Raises:
        UserError: there are fewer images than parts, or a logit is not finite.
    """
    if len(logits) < splits:
        raise UserError(f"the Inception Score needs at least {splits} images, not {len(logits)}: give more")
    check_finite(logits)
    # NumPy's legacy generator, because its numbers are the same in all versions, and torch-fidelity uses it too.
    shuffled = logits[np.random.RandomState(seed).permutation(len(logits))].astype(np.float64)
    bounds = [part * len(logits) // splits for part in range(splits + 1)]
    scores = [exponential_divergence(shuffled[start:end]) for start, end in zip(bounds, bounds[1:], strict=False)]
    return InceptionScore(float(np.mean(scores)), float(np.std(scores)), splits, len(logits))


def exponential_divergence(logits: Float[np.ndarray, "images classes"]) -> float:
    """Computes equation (1) for one part."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_given = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    given = np.exp(log_given)
    overall = given.mean(axis=0)
    # A class whose probability underflows in all images adds nothing to the sum: 0 log 0 is 0.
    log_overall = np.log(np.where(overall > 0, overall, 1.0))
    return float(np.exp(np.mean(np.sum(given * (log_given - log_overall), axis=1))))
