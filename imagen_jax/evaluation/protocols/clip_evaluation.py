"""Measures a CLIP during its training, from embeddings of a held-out split.

    captions and labels of the split -> make_clip_evaluation -> the texts to embed
    embeddings of the images, and of the texts -> metrics for the log

It is pure: it reads no image and calls no network. A training hook embeds, and writes the metrics.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Int64

from imagen_jax.data.classes import NO_CLASS
from imagen_jax.errors import UserError
from imagen_jax.evaluation.metrics.retrieval import KS, CaptionPairs, chance_of, measure_retrieval, pair_captions
from imagen_jax.evaluation.metrics.zero_shot import build_classifier, classify, measure_accuracy
from imagen_jax.evaluation.prompt_templates import ClassPrompts


@dataclass(frozen=True)
class ClipEvaluation:
    """The measurement of one split; call it with embeddings, as often as necessary.

    Attributes:
        pairs: which captions and images belong together.
        classes: the prompts of the classes; None to measure retrieval alone.
        labels: class of each image, or ``NO_CLASS``; None without classes.
    """

    pairs: CaptionPairs
    classes: ClassPrompts | None = None
    labels: Int64[np.ndarray, " images"] | None = None

    @property
    def texts(self) -> tuple[str, ...]:
        """The texts to embed: the distinct captions, then the distinct prompts."""
        return (*self.pairs.captions, *(self.classes.list_distinct() if self.classes else ()))

    @property
    def chance(self) -> dict[str, float]:
        """What guessing is expected to reach, by the names of the metrics."""
        rights = {"image_to_text": self.pairs.captions_of, "text_to_image": self.pairs.images_of}
        items = {"image_to_text": len(self.pairs.captions), "text_to_image": len(self.pairs.captions_of)}
        found = {
            f"{field}_recall_at_{k}": chance_of(items[field], np.asarray([len(own) for own in right]), k)
            for field, right in rights.items()
            for k in KS
        }
        return found | ({} if self.classes is None else {"zero_shot_accuracy": 1.0 / len(self.classes.names)})

    def __call__(
        self, images: Float[np.ndarray, "images features"], texts: Float[np.ndarray, "texts features"]
    ) -> dict[str, float]:
        """Returns the metrics: ``image_to_text_recall_at_1`` and so on, and ``zero_shot_accuracy`` with classes.

        Args:
            images: embeddings of the split's images, of any length, in order.
            texts: embeddings of ``texts``, of any length, in order.

        Raises:
            UserError: an embedding is not finite or is zero, or there are more or fewer than images or texts.
        """
        if len(images) != len(self.pairs.captions_of) or len(texts) != len(self.texts):
            raise UserError(
                f"there are {len(images)} embeddings of {len(self.pairs.captions_of)} images and {len(texts)} of "
                f"{len(self.texts)} texts: embed each image and each text once"
            )
        found = measure_retrieval(images, texts[: len(self.pairs.captions)], self.pairs)
        metrics = {
            f"{field}_recall_at_{k}": value
            for field in found._fields
            for k, value in getattr(found, field).recall.items()
        }
        if self.classes is not None and self.labels is not None:
            row_of = {prompt: row for row, prompt in enumerate(self.classes.list_distinct(), len(self.pairs.captions))}
            classifier = build_classifier([texts[[row_of[prompt] for prompt in own]] for own in self.classes.prompts])
            labelled = self.labels != NO_CLASS
            # The accuracy does not depend on the scale.
            cosines = classify(images[labelled], classifier, 1.0).cosines
            accuracy = measure_accuracy(cosines, self.labels[labelled], self.classes.names)
            metrics["zero_shot_accuracy"] = accuracy.accuracy
        return metrics


def make_clip_evaluation(
    captions: Sequence[Sequence[str]],
    classes: ClassPrompts | None = None,
    labels: Int[np.ndarray, " images"] | None = None,
) -> ClipEvaluation:
    """Returns the measurement of a held-out split.

    Args:
        captions: captions of each image of the split, at least one.
        classes: the result of ``prompt_templates.make_prompts``; None to measure retrieval alone.
        labels: class of each image, or ``NO_CLASS``; needed with classes.

    Raises:
        UserError: there are classes without labels or labels without classes, no image has a class, or
            ``pair_captions`` raises it.
    """
    if (classes is None) != (labels is None):
        raise UserError("zero-shot accuracy needs both the classes and the images' labels: give both, or neither")
    if labels is not None and (len(labels) != len(captions) or not np.any(labels != NO_CLASS)):
        raise UserError(
            f"{len(labels)} labels do not classify {len(captions)} images: give one for each, and not only NO_CLASS"
        )
    return ClipEvaluation(pair_captions(captions), classes, None if labels is None else np.asarray(labels, np.int64))
