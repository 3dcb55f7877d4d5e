"""Guides a stage by a CLIP that was trained on noisy images, towards a caption (Nichol et al. 2021, section 2.4).

workdir of such a CLIP, a caption -> the embedding of the caption -> e^t · cos(image at this noise level, caption)
"""

from typing import Any, NamedTuple

import jax.numpy as jnp

from imagen_jax.array_types import Images, PerExample
from imagen_jax.cascade.classifier import check_scale
from imagen_jax.clip.contrastive import unit
from imagen_jax.clip.description import normalise_images
from imagen_jax.encoders.pretrained_clip import Clip, load_clip
from imagen_jax.errors import UserError
from imagen_jax.sampling.guidance import ClassifierGuidance
from imagen_jax.storage.paths import Path


class ClipGuidancePlan(NamedTuple):
    """Guidance by a CLIP, checked.

    Attributes:
        clip: the CLIP.
        resolution: height and width of its images.
        caption: the caption to guide towards.
        scale: guidance scale s, see ``ClassifierGuidance``.
    """

    clip: Clip
    resolution: int
    caption: str
    scale: float

    def load(self) -> ClassifierGuidance:
        """Makes the guidance: its log-probability is the logit of the caption, up to a constant."""
        description, logit_scale = self.clip.description, self.clip.logit_scale
        tower: Any = description.make_image_tower()
        params = self.clip.parameters["image"]
        wanted = unit(jnp.asarray(self.clip.encode_texts([self.caption])))

        def log_probability(noisy: Images, log_snr: PerExample) -> PerExample:
            images = normalise_images(noisy, description.mean, description.deviation)
            embedded = unit(tower.apply({"params": params}, images, log_snr=log_snr))
            return logit_scale * jnp.sum(embedded * wanted, axis=1)

        return ClassifierGuidance(log_probability, self.scale, self.resolution, self.caption)


def plan_clip_guidance(folder: Path, caption: str, scale: float) -> ClipGuidancePlan:
    """Loads a CLIP for guidance, and checks it.

    Args:
        folder: the workdir of its training, or a folder in our layout.
        caption: the caption to guide towards.
        scale: guidance scale s, at most ``MAX_GUIDANCE`` in absolute value.

    Raises:
        UserError: there is no such CLIP, it was trained on clean images, or the scale is out of range.
    """
    check_scale(scale)
    clip = load_clip(str(folder), model="")
    if not clip.description.image.get("noise_conditioned", False):
        raise UserError(
            f"the CLIP in {folder} was trained on clean images, and its gradient on noisy ones leads nowhere: train "
            "one with --config.clip.noise_schedule=cosine and --config.image_tower.noise_conditioned=True"
        )
    return ClipGuidancePlan(clip, clip.description.image["resolution"], caption, scale)
