"""Defines the evaluation protocols and finds an evaluation's deviations from them.

A number follows a protocol only if there are no deviations.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Protocol:
    """An evaluation protocol.

    Attributes:
        title: title of the report.
        source: origin of the protocol, such as a section of a paper.
        samples: number of captions to sample images for; for DrawBench, number of images of each prompt.
        dataset: key of ``references.DATASETS``; "" for the base stage's training data.
        resolution: height and width of the compared images in pixels; None for any.
        features: feature networks, the first of which gives the headline number.
        guidance: guidance weight of each stage, base first; () for the weights in the configs.
        augmentation_level: noise augmentation level of the stages after the base; None for those in the configs.
        recalls: whether to measure caption recall.
    """

    title: str
    source: str
    samples: int
    dataset: str = ""
    resolution: int | None = None
    features: tuple[str, ...] = ("efficientnet_lite0", "pixels")
    guidance: tuple[float, ...] = ()
    augmentation_level: float | None = None
    recalls: bool = False


PROTOCOLS = {
    "training_captions": Protocol(
        "Images of training captions",
        "this project: do images follow their captions, and how far are they from the training images?",
        128,
        recalls=True,
    ),
    "imagen": Protocol(
        "Zero-shot FID-30K on COCO 2014",
        "Saharia et al. 2022, section 4.1 and table 1: 30,000 random validation captions against the whole "
        "validation set, 256 px, guidance 1.35 and 8, no augmentation at sampling",
        30_000,
        "coco2014",
        256,
        ("inception",),
        (1.35, 8.0),
        0.0,
    ),
    "drawbench": Protocol(
        "DrawBench",
        "Saharia et al. 2022, section 4.3: about 200 prompts of 11 categories, 8 images of each, judged by people",
        8,
    ),
}
"""Protocols by the values of ``--protocol``."""


def overrides_of(protocol: Protocol, stages: int) -> dict[str, list[float]]:
    """Returns the overrides of ``config.sampling`` that a protocol sets for a cascade of ``stages`` stages.

    If the cascade has more stages than the protocol has guidance weights, all stages keep the weights of their configs;
    ``find_deviations`` reports this.
    """
    overrides: dict[str, list[float]] = {}
    if protocol.guidance and stages <= len(protocol.guidance):
        overrides["guidance"] = list(protocol.guidance[:stages])
    if protocol.augmentation_level is not None:
        overrides["augmentation_level"] = [protocol.augmentation_level]
    return overrides


def find_deviations(
    protocol: Protocol,
    *,
    samples: int,
    dataset: str,
    resolution: int,
    networks: Sequence[Mapping[str, Any]],
    guidance: Sequence[float],
    augmentation_levels: Sequence[float],
    own_captions: bool,
) -> list[str]:
    """Returns one sentence for each deviation of an evaluation from its protocol; empty if there is none.

    Args:
        protocol: protocol of the evaluation.
        samples: number of captions that images are sampled for.
        dataset: key of ``references.DATASETS``, or "" for the base stage's training data.
        resolution: height and width of the compared images in pixels.
        networks: name, SHA-256 of the weights, and SHA-256 of the published weights, of each feature network.
        guidance: guidance weight of each stage, base first.
        augmentation_levels: noise augmentation level of each stage after the base.
        own_captions: whether the captions come from a user's file.
    """
    deviations = []
    if samples != protocol.samples:
        deviations.append(f"images are sampled for {samples:,} captions, not for {protocol.samples:,}")
    if own_captions:
        deviations.append("the captions come from a file and are not chosen by the seed")
    if protocol.dataset and dataset != protocol.dataset:
        deviations.append(f"the reference is {dataset}, not {protocol.dataset}")
    if protocol.resolution is not None and resolution != protocol.resolution:
        deviations.append(f"images are compared at {resolution} px, not at {protocol.resolution}")
    first = networks[0] if networks else {"name": "none"}
    if first["name"] != protocol.features[0]:
        deviations.append(f"the features are those of {first['name']}, not of {protocol.features[0]}")
    elif first.get("published") and first["sha256"] != first["published"]:
        deviations.append(f"the weights of {first['name']} are not the published ones: sha256 {first['sha256'][:16]}…")
    if protocol.guidance and tuple(guidance) != protocol.guidance[: len(guidance)]:
        wanted = ", ".join(f"{weight:g}" for weight in protocol.guidance)
        deviations.append(f"the guidance weights are {', '.join(f'{weight:g}' for weight in guidance)}, not {wanted}")
    elif protocol.guidance and len(guidance) != len(protocol.guidance):
        deviations.append(f"the cascade has {len(guidance)} stage(s), not {len(protocol.guidance)}")
    if protocol.augmentation_level is not None:
        others = [level for level in augmentation_levels if level != protocol.augmentation_level]
        if others:
            deviations.append(
                f"low-resolution images are noised to level {others[0]:g}, not {protocol.augmentation_level:g}"
            )
    return deviations
