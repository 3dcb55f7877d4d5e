"""Classifies the images of a split without labels, and measures the accuracy beside chance and a linear probe.

class words × templates -> texts -> classifier      images -> embeddings -> accuracy, confusions, examples
training images, labels -> embeddings -> linear probe ----^
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, Float64, Int64

from imagen_jax.data.classes import NO_CLASS
from imagen_jax.encoders.feature_network import TextImageNetwork
from imagen_jax.evaluation.metrics.linear_probe import LinearProbe, train_probe
from imagen_jax.evaluation.metrics.zero_shot import Accuracy, build_classifier, classify, measure_accuracy, predict
from imagen_jax.evaluation.prompt_templates import TEMPLATES, ClassPrompts, make_prompts
from imagen_jax.evaluation.protocols.image_embeddings import embed_images
from imagen_jax.evaluation.protocols.image_labels import Wordings
from imagen_jax.evaluation.protocols.measures import Headline
from imagen_jax.evaluation.protocols.references import Reference
from imagen_jax.evaluation.reports.report import describe_machine

FEW_IMAGES = 100
"""Number of images below which a warning says that the accuracy says little."""


class LabelledSplit(NamedTuple):
    """A split and the classes of its images.

    Attributes:
        reference: the split.
        labels: class of each image, or ``NO_CLASS``.
        split: name of the split.
    """

    reference: Reference
    labels: Int64[np.ndarray, " images"]
    split: str

    @property
    def numbers(self) -> Int64[np.ndarray, " labelled"]:
        """The numbers of the images with a class."""
        return np.flatnonzero(self.labels != NO_CLASS)


@dataclass(frozen=True)
class ClassifyRequest:
    """What to classify, and how.

    Attributes:
        wordings: the classes in words; the richest wording makes the headline.
        templates: templates of the prompts.
        templates_name: key of ``prompt_templates.TEMPLATES``, or ``OWN``.
        tested: the split to classify.
        training: the split that trains the linear probe; None for no probe.
        seed: seed of the choice of examples, and of the probe's choice of λ.
    """

    wordings: Wordings
    templates: Sequence[str]
    templates_name: str
    tested: LabelledSplit
    training: LabelledSplit | None = None
    seed: int = 0


class PromptResult(NamedTuple):
    """The accuracy with one way to write prompts.

    Attributes:
        name: what the prompts consist of.
        prompts: the number of prompts of all classes.
        accuracy: the accuracy of their classifier.
    """

    name: str
    prompts: int
    accuracy: Accuracy


@dataclass(frozen=True)
class Classification:
    """The results of a request.

    Attributes:
        names: names of the classes.
        results: the accuracy with simpler prompts, and last with the requested ones.
        probabilities: probability of each labelled image and class, with the requested prompts.
        predicted: class of each labelled image, as the accuracy counts it.
        probe: the linear probe; None without one.
        probe_accuracy: its accuracy on the same images; None without one.
    """

    names: tuple[str, ...]
    results: tuple[PromptResult, ...]
    probabilities: Float64[np.ndarray, "images classes"]
    predicted: Int64[np.ndarray, " images"]
    probe: LinearProbe | None = None
    probe_accuracy: Accuracy | None = None

    @property
    def accuracy(self) -> Accuracy:
        """The accuracy with the requested prompts."""
        return self.results[-1].accuracy


def list_variants(wordings: Wordings, templates: Sequence[str]) -> dict[str, ClassPrompts]:
    """Returns each wording alone and in the templates, by a name for it; the richest one in the templates is last."""
    variants = {kind: make_prompts(words, TEMPLATES["bare"]) for kind, words in wordings.by_kind.items()}
    if tuple(templates) != TEMPLATES["bare"]:
        variants |= {f"{kind} in templates": make_prompts(words, templates) for kind, words in wordings.by_kind.items()}
    return variants


def embed_prompts(network: TextImageNetwork, variants: Sequence[ClassPrompts]) -> list[list[np.ndarray]]:
    """Returns the embeddings of each class's prompts, for each variant. Each distinct prompt is embedded once."""
    texts = list(dict.fromkeys(prompt for variant in variants for prompt in variant.list_distinct()))
    embedded = dict(zip(texts, network.encode_texts(texts), strict=True))
    return [[np.stack([embedded[prompt] for prompt in own]) for own in variant.prompts] for variant in variants]


def run_classification(network: TextImageNetwork, logit_scale: float, request: ClassifyRequest) -> Classification:
    """Classifies the labelled images of a split.

    Args:
        network: the CLIP.
        logit_scale: factor of its cosines.
        request: what to classify, and how.

    Raises:
        UserError: the classes can't be told apart, an image can't be decoded, or the embeddings do not compare.
    """
    tested = request.tested
    labels = tested.labels[tested.numbers]
    variants = list_variants(request.wordings, request.templates)
    classifiers = [build_classifier(prompts) for prompts in embed_prompts(network, list(variants.values()))]
    images = embed_images(network.image, tested.reference, tested.numbers.tolist())
    results = []
    for (name, prompts), classifier in zip(variants.items(), classifiers, strict=True):
        accuracy = measure_accuracy(classify(images, classifier, logit_scale).cosines, labels, prompts.names)
        results.append(PromptResult(name, sum(map(len, prompts.prompts)), accuracy))
    classified = classify(images, classifiers[-1], logit_scale)
    probe, probe_accuracy = run_probe(network, request, images, labels)
    return Classification(
        names=request.wordings.names,
        results=tuple(results),
        probabilities=classified.probabilities,
        predicted=predict(classified.cosines, labels),
        probe=probe,
        probe_accuracy=probe_accuracy,
    )


def run_probe(
    network: TextImageNetwork,
    request: ClassifyRequest,
    images: Float32[np.ndarray, "images features"],
    labels: Int64[np.ndarray, " images"],
) -> tuple[LinearProbe | None, Accuracy | None]:
    """Trains the linear probe on the training split, and measures it on the tested images; None for both without one.

    Images with the same first caption choose λ together or not at all.
    """
    training = request.training
    if training is None:
        return None, None
    names = request.wordings.names
    features = embed_images(network.image, training.reference, training.numbers.tolist())
    captions = [training.reference.captions[number][:1] for number in training.numbers]
    groups = [own or (number,) for number, own in enumerate(captions)]
    probe = train_probe(features, training.labels[training.numbers], len(names), groups, request.seed)
    return probe, measure_accuracy(probe.score(images), labels, names)


def find_warnings(request: ClassifyRequest, found: Classification) -> list[str]:
    """Returns one sentence for each reason to read the numbers with care."""
    tested, sentences = request.tested, []
    if tested.split == "train":
        sentences.append("these are training images: a CLIP that was trained on them knows their captions")
    if request.training is None:
        sentences.append("there is no linear probe to compare with")
    if found.accuracy.images < FEW_IMAGES:
        sentences.append(f"an accuracy of only {found.accuracy.images} images says little")
    if unlabelled := len(tested.labels) - len(tested.numbers):
        sentences.append(f"{unlabelled} of {len(tested.labels)} images have none of the classes and are left out")
    if found.probe is not None and not found.probe.converged:
        sentences.append("the linear probe did not converge, so a better one may exist")
    if found.probe is not None and found.probe.at_edge:
        sentences.append("the linear probe's regularisation is at the edge of its range, so a better one may exist")
    return sentences


def make_report(
    network: TextImageNetwork, logit_scale: float, request: ClassifyRequest, found: Classification
) -> dict[str, Any]:
    """Returns the results with every fact that a reader needs to repeat them, as plain values."""
    tested, accuracy, probe = request.tested, found.accuracy, found.probe
    note = f"{accuracy.images} images in {len(found.names)} classes"
    headline = [Headline("zero-shot accuracy", accuracy.accuracy, "higher", accuracy.standard_error, note)]
    if found.probe_accuracy is not None and probe is not None:
        one, note = found.probe_accuracy, f"supervised, on {probe.training_images} training images of the same features"
        headline.append(Headline("linear probe", one.accuracy, "higher", one.standard_error, note))
    return {
        "title": "Zero-shot classification",
        "headline": [one.as_dict() for one in headline],
        "warnings": find_warnings(request, found),
        "accuracy": accuracy.as_dict(),
        "prompt_results": [
            {"prompts": one.name, "count": one.prompts, **one.accuracy.as_dict()} for one in found.results
        ],
        "probe": {} if probe is None or found.probe_accuracy is None else describe_probe(probe, found.probe_accuracy),
        "classes": [asdict(one) for one in accuracy.classes],
        "confusion": accuracy.confusion.tolist(),
        "data": {
            "images": tested.reference.name,
            "fingerprint": tested.reference.fingerprint,
            "split": tested.split,
            "without_class": len(tested.labels) - len(tested.numbers),
        },
        "clip": {"name": network.name, **network.image.key, "logit_scale": logit_scale},
        "prompts": {
            "templates": request.templates_name,
            "texts": list(request.templates),
            "words": {name: list(own) for name, own in request.wordings.richest.items()},
        },
        "seed": request.seed,
        "machine": describe_machine(),
    }


def describe_probe(probe: LinearProbe, accuracy: Accuracy) -> dict[str, Any]:
    """Returns a probe's accuracy and the facts of its training."""
    names = ("strength", "training_images", "choosing_images", "converged", "at_edge")
    return accuracy.as_dict() | {name: getattr(probe, name) for name in names}


def describe_lines(found: Classification) -> list[str]:
    """Returns the lines that the command prints: the accuracies, and a table of the classes."""
    accuracy = found.accuracy
    lines = [
        f"zero-shot accuracy {accuracy.accuracy:.3f} ± {accuracy.standard_error:.3f}, of {accuracy.images} images in "
        f"{len(found.names)} classes",
        f"chance {accuracy.chance:.3f}; always {accuracy.majority_class!r} {accuracy.majority:.3f}",
    ]
    if found.probe_accuracy is not None and found.probe is not None:
        one = found.probe_accuracy
        lines.append(
            f"linear probe {one.accuracy:.3f} ± {one.standard_error:.3f}, trained on "
            f"{found.probe.training_images} images with labels"
        )
    lines += [f"  {one.name:32} {one.accuracy.accuracy:.3f}   {one.prompts} prompts" for one in found.results]
    width = max(len("class"), *map(len, found.names))
    lines.append(f"{'class':{width}}  images  right  recall")
    lines += [
        f"{one.name:{width}}  {one.images:6}  {one.right:5}  {one.recall:.3f} ± {one.standard_error:.3f}"
        for one in accuracy.classes
    ]
    return lines
