r"""Zero-shot classification: a classifier made of texts, and its accuracy (Radford et al. 2021, section 3.1).

    w_c = unit(mean over the prompts p of class c of unit(text(p)))        (1)    section 3.1.4
    probability of c = softmax over c of scale · cos(image, w_c)           (2)    section 3.1.2

The prompts of a class are averaged as embeddings and not as probabilities, so that a classifier of any number of
prompts costs no more per image than one of single prompts.

Ties count against an image: it is classified correctly only if its own class has a higher score than every other.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Float64, Int, Int64

from imagen_jax.errors import UserError
from imagen_jax.evaluation.metrics.caption_recall import ROUNDING
from imagen_jax.evaluation.metrics.clip_score import unit

KS = (1, 5)
"""The k of top-k accuracies; those that reach the number of classes are left out."""


class Classified(NamedTuple):
    """Images compared with the classes.

    Attributes:
        cosines: cosine similarity of each image and class, in [-1, 1].
        probabilities: equation (2); each row has the sum 1.
    """

    cosines: Float64[np.ndarray, "images classes"]
    probabilities: Float64[np.ndarray, "images classes"]


@dataclass(frozen=True)
class ClassResult:
    """The result of one class.

    Attributes:
        name: name of the class.
        images: number of images of the class.
        right: number of them that are classified as this class.
        recall: ``right`` divided by ``images``; NaN without images.
        standard_error: the standard error of ``recall``, as a binomial proportion; NaN without images.
        predicted: number of images of any class that are classified as this class.
    """

    name: str
    images: int
    right: int
    recall: float
    standard_error: float
    predicted: int


@dataclass(frozen=True)
class Accuracy:
    """The accuracy of a classifier on labelled images.

    Attributes:
        accuracy: share of the images that are classified correctly, in [0, 1].
        standard_error: the standard error of ``accuracy``, as a binomial proportion.
        top: the top-k accuracy by k, for each k of ``KS`` below the number of classes.
        mean_per_class: mean of the recalls of the classes that have images.
        chance: 1 / number of classes, the expected accuracy of guessing.
        majority: share of the most frequent class among these images: the accuracy of always answering it.
        majority_class: name of that class.
        images: number of images.
        classes: result of each class.
        confusion: number of images of each class (row) that are classified as each class (column).
    """

    accuracy: float
    standard_error: float
    top: dict[int, float]
    mean_per_class: float
    chance: float
    majority: float
    majority_class: str
    images: int
    classes: tuple[ClassResult, ...]
    confusion: Int64[np.ndarray, "classes classes"]

    def as_dict(self) -> dict[str, Any]:
        """Returns plain values by name, without the results of single classes and the confusions."""
        names = ("accuracy", "standard_error", "mean_per_class", "chance", "majority", "majority_class", "images")
        top = {f"top_{k}": value for k, value in self.top.items() if k > 1}
        return {name: getattr(self, name) for name in names} | top


def build_classifier(prompt_embeddings: Sequence[np.ndarray]) -> Float64[np.ndarray, "classes features"]:
    """Computes equation (1).

    Args:
        prompt_embeddings: embeddings of the prompts of each class, ``(prompts, features)``, of any length.

    Returns:
        One vector of unit length per class.

    Raises:
        UserError: there are fewer than two classes, a class has no prompt, or an embedding is not finite, is zero, or
            has another width.
    """
    if len(prompt_embeddings) < 2:
        raise UserError(f"a classifier needs at least two classes, but there is {len(prompt_embeddings)}: add classes")
    if not all(len(embeddings) for embeddings in prompt_embeddings):
        raise UserError("a class has no prompt: give each class at least one word, and at least one template")
    widths = sorted({embeddings.shape[1] for embeddings in prompt_embeddings})
    if len(widths) > 1:
        raise UserError(f"embeddings of {widths[0]} and {widths[1]} numbers do not compare: use those of one CLIP")
    return unit(np.stack([unit(embeddings).mean(axis=0) for embeddings in prompt_embeddings]))


def classify(
    images: Float[np.ndarray, "images features"],
    classifier: Float[np.ndarray, "classes classifier_features"],
    logit_scale: float,
) -> Classified:
    """Computes equation (2).

    Args:
        images: embeddings of images, of any length.
        classifier: the result of ``build_classifier``.
        logit_scale: the factor of the cosines, such as 100 in OpenAI's models.

    Raises:
        UserError: the widths differ, or an embedding is not finite or is zero.
    """
    check_widths(images, classifier)
    cosines = unit(images) @ unit(classifier).T
    return Classified(cosines, softmax(logit_scale * cosines))


def check_widths(images: Float[np.ndarray, "images features"], texts: Float[np.ndarray, "texts text_features"]) -> None:
    """Checks that embeddings of images and of texts have the same width.

    Raises:
        UserError: they do not.
    """
    if images.shape[1] != texts.shape[1]:
        raise UserError(
            f"the embeddings of images have {images.shape[1]} numbers and those of texts {texts.shape[1]}: they do not "
            "compare; use those of one CLIP"
        )


def softmax(logits: Float64[np.ndarray, "images classes"]) -> Float64[np.ndarray, "images classes"]:
    """Returns the softmax of each row."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def measure_accuracy(
    scores: Float[np.ndarray, "images classes"], labels: Int[np.ndarray, " images"], names: Sequence[str]
) -> Accuracy:
    """Measures the accuracy of a classifier's scores.

    Args:
        scores: score of each image and class, such as cosines; higher is more likely.
        labels: class of each image, as an index into the columns of ``scores``.
        names: names of the classes.

    Raises:
        UserError: there are no images.
    """
    count, classes = scores.shape
    if not count:
        raise UserError("there are no images with a class: check the classes, or choose another split")
    ranks, predicted = rank_labels(scores, labels), predict(scores, labels)
    confusion = np.zeros((classes, classes), np.int64)
    np.add.at(confusion, (labels, predicted), 1)
    sizes, right = confusion.sum(axis=1), np.diag(confusion)
    results = tuple(
        ClassResult(name, int(size), int(hits), *share_of(int(hits), int(size)), int(total))
        for name, size, hits, total in zip(names, sizes, right, confusion.sum(axis=0), strict=True)
    )
    accuracy, error = share_of(int(right.sum()), count)
    most = int(np.argmax(sizes))
    return Accuracy(
        accuracy=accuracy,
        standard_error=error,
        top={k: float(np.mean(ranks <= k)) for k in KS if k < classes},
        mean_per_class=float(np.mean([one.recall for one in results if one.images])),
        chance=1.0 / classes,
        majority=float(sizes[most]) / count,
        majority_class=names[most],
        images=count,
        classes=results,
        confusion=confusion,
    )


def rank_labels(
    scores: Float[np.ndarray, "images classes"], labels: Int[np.ndarray, " images"]
) -> Int[np.ndarray, " images"]:
    """Returns the rank of each image's own class, 1 for the highest score. Ties make the rank worse."""
    own = scores[np.arange(len(labels)), labels]
    return (scores >= own[:, None] - ROUNDING).sum(axis=1)


def predict(
    scores: Float[np.ndarray, "images classes"], labels: Int[np.ndarray, " images"]
) -> Int[np.ndarray, " images"]:
    """Returns the class with the highest score of each image; of a tie with its own class, the other class."""
    lowered = scores.copy()
    lowered[np.arange(len(labels)), labels] -= ROUNDING
    best = lowered.max(axis=1, keepdims=True)
    is_best = lowered >= best
    # A class other than the own one comes first, should both have the same score after rounding.
    is_other = np.arange(scores.shape[1])[None, :] != labels[:, None]
    return np.argmax(is_best * (1 + is_other), axis=1)


def share_of(hits: int, count: int) -> tuple[float, float]:
    """Returns the share of hits and its standard error as a binomial proportion; NaN for none of none."""
    if not count:
        return math.nan, math.nan
    share = hits / count
    return share, math.sqrt(share * (1.0 - share) / count)
