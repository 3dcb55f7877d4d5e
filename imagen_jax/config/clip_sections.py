"""The keys of each section of the config of a CLIP, as frozen dataclasses; see ``sections``."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from imagen_jax.config.section import Section
from imagen_jax.config.sections import DataConfig, LoopConfig, MeshConfig, OptimizerConfig


@dataclass(frozen=True, kw_only=True)
class ClipConfig(Section):
    """The contrastive loss of a CLIP, and what its towers share.

    Attributes:
        embedding: number of channels of the embeddings of images and captions.
        loss: a key of ``clip.contrastive.LOSSES``: ``softmax`` of CLIP, or ``sigmoid`` of SigLIP.
        max_scale: max factor of the cosines.
        equal_captions: whether two pairs with the same caption are each other's ``negatives``, as in the paper, or
            ``ignored``.
        mean: mean of red, green and blue that normalises images in [0, 1].
        deviation: standard deviation of red, green and blue that normalises images.
        noise_schedule: a key of ``diffusion.schedules.SCHEDULES``: the image tower takes noisy images, at evenly spread
            times, and their log-SNR, so that it can guide a diffusion model; "" for clean images.
        tokenizer: the file of OpenAI's vocabulary, or a folder with it or with ``tokenizer.json``; "" trains one on the
            captions.
        held_out: max number of held-out pairs for the measurements during training.
        classes: a key of ``data.classes.CLASSES`` for the zero-shot accuracy during training; "" for none.
        templates: a key of ``evaluation.prompt_templates.TEMPLATES`` for these classes.
    """

    free_to_change = ("held_out", "classes", "templates")

    embedding: int
    loss: str = "softmax"
    max_scale: float = 100.0
    equal_captions: str = "negatives"
    mean: tuple[float, ...] = (0.48145466, 0.4578275, 0.40821073)
    deviation: tuple[float, ...] = (0.26862954, 0.26130258, 0.27577711)
    noise_schedule: str = ""
    tokenizer: str = ""
    held_out: int = 2000
    classes: str = ""
    templates: str = "bare"


@dataclass(frozen=True, kw_only=True)
class TowerConfig(Section):
    """One tower of a CLIP.

    Attributes:
        name: a key of ``clip.towers.IMAGE_TOWERS`` or ``TEXT_TOWERS``.
        fields: the fields of its Linen module, except ``embedding``.
    """

    rest = "fields"
    free_to_change = ("remat", "scan")

    name: str
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ClipTrainingConfig(LoopConfig):
    """The training of a CLIP. See also ``LoopConfig``.

    Attributes:
        gradient_accumulation: number of parts of a batch, embedded one after the other, to save memory. All examples of
            the batch remain negatives.
        sam_rho: length ρ of SAM's step uphill (Foret et al. 2021); 0 for no SAM.
        sam_share: number of examples that step uphill together; 0 for the whole batch.
        init_from: a CLIP whose weights a new run starts from: a folder or file as for ``--clip``; "" for random ones.
        evaluate_every: steps between two measurements on held-out pairs; 0 for none.
        patience: number of measurements without a better held-out recall after which training ends; 0: it never ends
            early. The exported weights are then those of the best measurement.
    """

    free_to_change = (*LoopConfig.free_to_change, "init_from", "evaluate_every", "patience")

    gradient_accumulation: int = 1
    sam_rho: float = 0.0
    sam_share: int = 0
    init_from: str = ""
    evaluate_every: int = 0
    patience: int = 0


CLIP_SECTIONS: dict[str, type[Section]] = {
    "data": DataConfig,
    "clip": ClipConfig,
    "image_tower": TowerConfig,
    "text_tower": TowerConfig,
    "training": ClipTrainingConfig,
    "optimizer": OptimizerConfig,
    "mesh": MeshConfig,
}
"""The sections of the config of a CLIP, by name. Beside them it has a ``seed``."""
