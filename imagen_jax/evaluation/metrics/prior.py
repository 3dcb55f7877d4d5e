r"""How near the image embeddings that a prior draws are to those of held-out images, beside what needs no prior.

    cosine     = mean of cos(z, z_i),  z being drawn for the caption of image i                        (1)
    recall@k   = share of drawn z for which z_i is among the k nearest held-out embeddings              (2)
    diversity  = 1 - mean cosine of two draws for the same caption                                      (3)

The same numbers of the caption's own embedding z_t, and of the ridge regression of z_i on z_t,

    W = (Z_tᵀ Z_t + p I)⁻¹ Z_tᵀ Z_i,    p chosen on a part of the training pairs                        (4)

say what a prior adds: Ramesh et al. 2022 (section 5.1) compare it with z_t in the place of z_i. Ties count against a
recall, and equal captions are one caption of several images, as in ``retrieval``.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from imagen_jax.clip.embedding_space import choose_nearest
from imagen_jax.errors import UserError
from imagen_jax.evaluation.metrics.clip_score import unit
from imagen_jax.evaluation.metrics.retrieval import measure_recalls, pair_captions

PENALTIES = (0.01, 0.1, 1.0, 10.0, 100.0)
"""Values of p that are tried, for unit vectors."""

Vectors = Float[np.ndarray, "images embedding"]


class EmbeddingPairs(NamedTuple):
    """Embeddings of images and of their captions, row by row, of any length.

    Attributes:
        images: z_i.
        captions: z_t.
    """

    images: Vectors
    captions: Vectors


def cosines(one: Vectors, other: Vectors) -> Float[np.ndarray, " images"]:
    """Returns the cosine of each row of one with the same row of the other."""
    return np.sum(unit(one) * unit(other), axis=1)


def fit_ridge(pairs: EmbeddingPairs, penalties: Sequence[float] = PENALTIES) -> Float[np.ndarray, "width width"]:
    """Fits equation (4) to unit vectors. The last fifth of the pairs chooses the penalty; all of them are fitted.

    Raises:
        UserError: there are fewer than ten pairs.
    """
    captions, images = (unit(np.asarray(part, np.float64)) for part in (pairs.captions, pairs.images))
    count = len(captions)
    if count < 10:
        raise UserError(f"a regression of {count} pairs says nothing: give at least 10 training pairs")
    first = count - count // 5
    kept = slice(0, first), slice(first, count)

    def solve(penalty: float, rows: slice) -> np.ndarray:
        inputs = captions[rows]
        return np.linalg.solve(inputs.T @ inputs + penalty * np.eye(inputs.shape[1]), inputs.T @ images[rows])

    scores = [cosines(captions[kept[1]] @ solve(penalty, kept[0]), images[kept[1]]).mean() for penalty in penalties]
    return solve(penalties[int(np.argmax(scores))], slice(0, count))


def measure_prior(
    draws: Sequence[Vectors], held_out: EmbeddingPairs, texts: Sequence[str], training: EmbeddingPairs
) -> dict[str, float]:
    """Measures draws for the captions of held-out images.

    Args:
        draws: drawn embeddings for all captions, at least two times.
        held_out: the images' and the captions' embeddings.
        texts: the captions.
        training: embeddings of pairs that the prior was trained on.

    Returns:
        For ``prior``, ``best_of_N`` (of all draws), ``text_vector`` and ``ridge``: the cosine, its standard error and
        recalls; for ``prior`` also the diversity, and the mean cosine with the nearest training image, beside that of
        the true embeddings.
    """
    pairs = pair_captions([[text] for text in texts])
    owners = [images[0] for images in pairs.images_of]
    compared: Mapping[str, Vectors] = {
        "prior": draws[0],
        f"best_of_{len(draws)}": np.asarray(choose_nearest(jnp.stack(draws), jnp.asarray(held_out.captions))),
        "text_vector": held_out.captions,
        "ridge": (unit(held_out.captions) @ fit_ridge(training)).astype(np.float32),
    }
    line: dict[str, float] = {}
    for name, vectors in compared.items():
        of_images = cosines(vectors, held_out.images)
        line[f"{name}_cosine"] = float(of_images.mean())
        line[f"{name}_cosine_error"] = float(of_images.std(ddof=1) / len(of_images) ** 0.5)
        recalls = measure_recalls(vectors[owners], held_out.images, pairs.images_of)
        line |= {f"{name}_recall_at_{k}": share for k, share in recalls.recall.items()}
        line |= {f"chance_at_{k}": share for k, share in recalls.chance.items()}
    line["prior_diversity"] = 1.0 - float(cosines(draws[0], draws[1]).mean())
    known = unit(training.images).T
    for name, vectors in {"prior": draws[0], "true": held_out.images}.items():
        line[f"{name}_nearest_training"] = float((unit(vectors) @ known).max(axis=1).mean())
    return line
