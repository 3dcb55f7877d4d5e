"""The published protocols, and what an evaluation does otherwise: where that is nothing, a number is a protocol's."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Protocol:
    """How something is measured.

    Attributes:
        title: of the report.
        source: where it is from.
        samples: captions that are drawn, or pictures of each prompt.
        dataset: a key of ``references.DATASETS``; "" where the data the stages were trained on will do.
        resolution: of the pictures that are compared; None for any.
        features: feature networks, the first of which gives the headline number.
        guidance: weight of each stage, base first; () for those of the configs.
        augmentation_level: likewise of the later stages.
        recalls: whether pictures look for their captions' own images among all of the reference.
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
        "Pictures of training captions",
        "this project: do pictures follow their captions, and how far are they from the training images?",
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
        "Saharia et al. 2022, section 4.3: about 200 prompts of 11 categories, 8 pictures of each, judged by people",
        8,
    ),
}
"""What ``--protocol`` may name."""


def overrides_of(protocol: Protocol, stages: int) -> dict[str, list[float]]:
    """The keys of ``config.sampling`` that a protocol sets, for a cascade of so many stages.

    Of more stages than the protocol has, the others keep what their configs say; see ``find_deviations``.
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
    """Says what an evaluation does otherwise than its protocol, a sentence each; none where it follows it.

    Args:
        protocol: which.
        samples: captions that are drawn.
        dataset: as ``--dataset`` names it.
        resolution: of the pictures that are compared.
        networks: name, and sha256 of the weights and of the published ones, of each feature network.
        guidance: of each stage.
        augmentation_levels: of each stage after the base.
        own_captions: whether the captions come from a file of the user's.
    """
    said = []
    if samples != protocol.samples:
        said.append(f"{samples:,} captions are drawn, not {protocol.samples:,}")
    if own_captions:
        said.append("the captions are those of a file, not chosen by the seed")
    if protocol.dataset and dataset != protocol.dataset:
        said.append(f"the reference is {dataset}, not {protocol.dataset}")
    if protocol.resolution is not None and resolution != protocol.resolution:
        said.append(f"pictures are compared at {resolution} px, not at {protocol.resolution}")
    first = networks[0] if networks else {"name": "none"}
    if first["name"] != protocol.features[0]:
        said.append(f"the features are those of {first['name']}, not of {protocol.features[0]}")
    elif first.get("published") and first["sha256"] != first["published"]:
        said.append(f"the weights of {first['name']} are not the published ones: sha256 {first['sha256'][:16]}…")
    if protocol.guidance and tuple(guidance) != protocol.guidance[: len(guidance)]:
        wanted = ", ".join(f"{weight:g}" for weight in protocol.guidance)
        said.append(f"the guidance weights are {', '.join(f'{weight:g}' for weight in guidance)}, not {wanted}")
    elif protocol.guidance and len(guidance) != len(protocol.guidance):
        said.append(f"{len(guidance)} stage(s) draw, not {len(protocol.guidance)}")
    if protocol.augmentation_level is not None:
        others = [level for level in augmentation_levels if level != protocol.augmentation_level]
        if others:
            said.append(
                f"low-resolution pictures are noised to level {others[0]:g}, not {protocol.augmentation_level:g}"
            )
    return said
