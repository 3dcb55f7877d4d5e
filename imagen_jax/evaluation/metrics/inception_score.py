r"""The Inception Score (Salimans et al. 2016, section 4): are pictures distinct, and of many classes?

    IS = exp( E_x KL( p(y|x) ‖ p(y) ) ),    p(y) = E_x p(y|x)                                            (1)

It knows nothing of what pictures should look like, and is at most the number of classes. The field takes its mean over
ten parts, and the logits of the Inception-v3 of 2015.
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
    """The score and how it was measured.

    Attributes:
        score: mean of equation (1) over the parts, from 1 to the number of classes.
        standard_deviation: over the parts.
        splits: how many parts.
        pictures: in all of them together.
    """

    score: float
    standard_deviation: float
    splits: int
    pictures: int

    def as_dict(self) -> dict[str, Any]:
        """The fields, by name."""
        return asdict(self)


def inception_score(
    logits: Float[np.ndarray, "pictures classes"], splits: int = SPLITS, seed: int = SEED
) -> InceptionScore:
    """Measures the Inception Score over parts of the shuffled pictures, as torch-fidelity does.

    Args:
        logits: class scores before the softmax.
        splits: how many parts.
        seed: of the shuffle, without which pictures in the order of their classes would make parts of few classes.

    Raises:
        UserError: there are fewer pictures than parts, or a logit is not finite.
    """
    if len(logits) < splits:
        raise UserError(f"the Inception Score takes at least a picture in each of {splits} parts, not {len(logits)}")
    check_finite(logits)
    # The old generator, since its numbers are the same in all versions of NumPy, and in torch-fidelity.
    shuffled = logits[np.random.RandomState(seed).permutation(len(logits))].astype(np.float64)
    bounds = [part * len(logits) // splits for part in range(splits + 1)]
    scores = [exponential_divergence(shuffled[start:end]) for start, end in zip(bounds, bounds[1:], strict=False)]
    return InceptionScore(float(np.mean(scores)), float(np.std(scores)), splits, len(logits))


def exponential_divergence(logits: Float[np.ndarray, "pictures classes"]) -> float:
    """Equation (1) of one part."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_given = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    given = np.exp(log_given)
    overall = given.mean(axis=0)
    # A class that underflows in all pictures has no share in the sum: 0 log 0 is 0.
    log_overall = np.log(np.where(overall > 0, overall, 1.0))
    return float(np.exp(np.mean(np.sum(given * (log_given - log_overall), axis=1))))
