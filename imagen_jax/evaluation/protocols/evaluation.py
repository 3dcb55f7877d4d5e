"""Runs one evaluation: samples images, computes the metrics, and lists the exact settings for the report.

captions -> OUT/pictures -> OUT/features/NETWORK          after an interruption, the same command continues
reference -> CACHE/…     -> measures                      its features are cached for other evaluations
measures, facts          -> OUT/report.json, OUT/report.html, figures
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from imagen_jax.cascade.cascade import Cascade
from imagen_jax.cascade.requests import requests_of
from imagen_jax.encoders.feature_network import FeatureNetwork, TextImageNetwork
from imagen_jax.encoders.feature_networks import FeatureSet
from imagen_jax.evaluation.metrics.clip_score import clip_score, r_precision
from imagen_jax.evaluation.protocols.caption_choice import CaptionChoice
from imagen_jax.evaluation.protocols.deviations import Protocol, find_deviations
from imagen_jax.evaluation.protocols.feature_parts import extract_in_parts
from imagen_jax.evaluation.protocols.measured_references import measure_reference
from imagen_jax.evaluation.protocols.measures import Headline, PublishedStatistics, measure_features
from imagen_jax.evaluation.protocols.references import Reference
from imagen_jax.evaluation.protocols.sampled_images import SampledImages, StepBar, sample_images
from imagen_jax.runtime import processes
from imagen_jax.storage.paths import Path, write_whole

PICTURES = "pictures"
FEATURES = "features"


@dataclass(frozen=True)
class Request:
    """The inputs and settings of an evaluation.

    Attributes:
        out: folder of the evaluation, on a disk that all processes share.
        cache: folder of the references' features, on a disk that all processes share.
        protocol: protocol of the evaluation; the report lists deviations from it.
        dataset: key of ``references.DATASETS``; "" for the base stage's training data.
        reference: real images to compare with.
        choice: captions to sample images for.
        networks: feature networks, the first of which gives the headline number.
        clip: network for the CLIP score and R-precision; None for neither.
        seed: seed of the choice of captions and of the images' noise.
        own_captions: whether the captions come from a user's file.
        published: statistics from a file, in features of the first network, for a second Fréchet distance; None for
            none.
    """

    out: Path
    cache: Path
    protocol: Protocol
    dataset: str
    reference: Reference
    choice: CaptionChoice
    networks: Sequence[FeatureNetwork]
    clip: TextImageNetwork | None
    seed: int
    own_captions: bool = False
    published: PublishedStatistics | None = None


@dataclass
class Measured:
    """The results of an evaluation; numbers and warnings are set on process 0 only.

    Attributes:
        headline: headline numbers of the report.
        numbers: all numbers, by network and metric.
        warnings: warnings about the numbers, for the reader of the report.
        features: features of the sampled images and of the reference, by network.
        sampled: the sampled images.
    """

    headline: list[Headline]
    numbers: dict[str, Any]
    warnings: list[str]
    features: dict[str, tuple[FeatureSet, FeatureSet]]
    sampled: SampledImages


def measure_cascade(cascade: Cascade, steps: StepBar, request: Request) -> Measured:
    """Samples missing images, extracts missing features, and computes the metrics. Every process must call it.

    Raises:
        UserError: an input of the user can't be used, such as a caption, a file, or a folder with other images.
    """
    resolution = cascade.stages[-1].resolution
    captions = request.choice.captions
    chosen = {"captions_sha256": request.choice.sha256}
    if processes.is_process_zero():
        write_captions(request)
    sampled = sample_images(cascade, steps, requests_of(captions), request.out / PICTURES, request.seed, chosen)
    ours_key = {"captions_sha256": request.choice.sha256, "pictures_sha256": fingerprint_of(sampled)}
    measured = Measured([], {}, [], {}, sampled)
    for index, network in enumerate(request.networks):
        ours = extract_in_parts(network, request.out / FEATURES / network.name, ours_key, len(captions), sampled.image)
        theirs = measure_reference(network, request.reference, resolution, request.cache)
        measured.features[network.name] = ours, theirs.features
        if not processes.is_process_zero():
            continue
        found = measure_features(network, ours, theirs, None if index else request.published)
        measured.numbers[network.name] = found.numbers
        measured.headline += found.headline
        measured.warnings += found.warnings
    if request.clip is not None:
        folder = request.out / FEATURES / request.clip.name
        images = extract_in_parts(request.clip.image, folder, ours_key, len(captions), sampled.image).pooled
        if processes.is_process_zero():
            numbers, headline = measure_texts(request.clip, images, captions, request.seed)
            measured.numbers[request.clip.name] = numbers
            measured.headline += headline
    return measured


def measure_texts(
    clip: TextImageNetwork, images: np.ndarray, captions: Sequence[str], seed: int
) -> tuple[dict[str, Any], list[Headline]]:
    """Computes the CLIP score, and R-precision if there are at least two distinct captions.

    Returns:
        The full results by metric, and the headline numbers.
    """
    texts = clip.encode_texts(captions)
    score = clip_score(images, texts)
    numbers: dict[str, Any] = {"clip_score": score.as_dict()}
    headline = [Headline("CLIP score", score.cosine, "higher", score.cosine_error, clip.name)]
    if len(set(captions)) > 1:
        found = r_precision(images, texts, captions, seed=seed)
        numbers["r_precision"] = found.as_dict()
        note = f"{clip.name}, among {found.candidates} captions"
        headline.append(Headline("R-precision", found.precision, "higher", found.standard_error, note))
    return numbers, headline


def write_captions(request: Request) -> None:
    """Writes the captions and their images' numbers to ``captions.jsonl``, so that the evaluation can be repeated."""
    images = request.choice.images or (None,) * len(request.choice.captions)
    rows = [
        json.dumps({"caption": caption, "picture": image}, ensure_ascii=False)
        for caption, image in zip(request.choice.captions, images, strict=True)
    ]
    write_whole(request.out / "captions.jsonl", ("\n".join(rows) + "\n").encode())


def fingerprint_of(sampled: SampledImages) -> str:
    """Returns the SHA-256 of the images' file names, in order.

    The names identify the images, because their folder is bound to one set of sampling settings.
    """
    return hashlib.sha256("\n".join(file.name for file in sampled.files).encode()).hexdigest()


def describe_weights(cascade: Cascade) -> dict[str, Any]:
    """Returns each stage's number of training steps and the hash of its parameters."""
    return {f"stage_{number}": {"step": one.step, "sha256": one.sha256} for number, one in enumerate(cascade.trained)}


def describe_evaluation(cascade: Cascade, request: Request) -> dict[str, Any]:
    """Returns every fact that a reader needs to repeat the evaluation, as JSON-serialisable values."""
    resolution = cascade.stages[-1].resolution
    networks = [network_facts(network) for network in request.networks]
    settings = [stage.settings for stage in cascade.stages]
    published = request.published
    return {
        "protocol": {"name": request.protocol.title, "source": request.protocol.source},
        "deviations": find_deviations(
            request.protocol,
            samples=len(request.choice.captions),
            dataset=request.dataset,
            resolution=resolution,
            networks=networks,
            guidance=[one.guidance_weight for one in settings],
            augmentation_levels=[one.augmentation_level for one in settings[1:]],
            own_captions=request.own_captions,
        ),
        "captions": {"count": len(request.choice.captions), "sha256": request.choice.sha256, "seed": request.seed},
        "reference": request.reference.key(resolution),
        "reference_statistics": None if published is None else {"file": published.name, "sha256": published.sha256},
        "networks": {network["name"]: network for network in networks},
        "clip": None if request.clip is None else request.clip.image.key,
        "sampling": {"seed": request.seed, **cascade.describe()},
        "weights": describe_weights(cascade),
    }


def network_facts(network: FeatureNetwork) -> Mapping[str, Any]:
    """Returns the facts about a feature network for the report and for ``find_deviations``."""
    return {"name": network.name, **network.key, "published": network.published}
