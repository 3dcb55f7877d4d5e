"""Measures the variational bound of a stage on held-out images, in bits per value.

images of a data set, their captions -> conditions -> the denoiser at every step -> terms of the bound, averaged

The bound is that of ancestral sampling with as many steps, without guidance and thresholding. It compares stages of the
same resolution on the same images. It says little about how images look: most bits are spent on details that nobody
sees (Ho et al. 2020, section 4.3).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from imagen_jax.array_types import LowResolution, RandomKey, Samples
from imagen_jax.cascade.loading import TrainedStage
from imagen_jax.cascade.stage import Params, Stage, make_denoiser, with_augmented
from imagen_jax.cascade.stage_inputs import Inputs, inputs_of_captions, to_labels
from imagen_jax.data.pixels import resize_area, to_image, with_channels
from imagen_jax.diffusion.augmentation import augment
from imagen_jax.diffusion.conditions import Conditions
from imagen_jax.diffusion.variational_bound import STEPS, BoundTerms, bound_terms
from imagen_jax.encoders.caption_tokens import CaptionTokenizer
from imagen_jax.encoders.embedding_store import Embeddings
from imagen_jax.errors import UserError
from imagen_jax.evaluation.protocols.references import Reference


class MeasuredBound(NamedTuple):
    """The bound of a stage on some images, in bits per value.

    Attributes:
        total: the bound.
        error: its standard error over the images.
        prior: the term of the noisiest step, which no network changes.
        data: the term of the cleanest step.
        steps: the terms of the other steps, clean to noisy.
        images: number of images.
    """

    total: float
    error: float
    prior: float
    data: float
    steps: tuple[float, ...]
    images: int

    def to_dict(self) -> dict[str, Any]:
        """Returns the values by name, JSON-serialisable."""
        return self._asdict()


def conditions_of(stage: Stage, inputs: Inputs) -> Conditions:
    """Returns the conditions of inputs, with clean low-resolution images."""

    def leave_clean(small: Samples) -> LowResolution:
        return augment(small, jnp.zeros_like(small), jnp.zeros(small.shape[:1]), stage.augmentation_schedule)

    return with_augmented(stage, inputs.conditions, leave_clean)


def measure_bound(
    trained: TrainedStage,
    store: Embeddings | None,
    reference: Reference,
    numbers: Sequence[int],
    *,
    batch_size: int = 16,
    steps: int = STEPS,
    seed: int = 0,
    tokenizer: CaptionTokenizer | None = None,
) -> MeasuredBound:
    """Measures the bound of a stage on images of a data set.

    Args:
        trained: the stage.
        store: embeddings of the images' captions; None for a stage without text.
        reference: the data set.
        numbers: numbers of the images in the data set.
        batch_size: number of images at once.
        steps: number of steps of the process.
        seed: random seed of the noise.
        tokenizer: the tokenizer of a stage that is told token ids.

    Raises:
        UserError: there are no images, one can't be read, the stage is told vectors, or there are too many steps.
    """
    if not numbers:
        raise UserError("there are no images to measure: take a data set whose validation split is not empty")
    stage = trained.stage
    if stage.text_vector or stage.image_vector:
        raise UserError("the bound of a stage that is told vectors needs the vectors: measure a stage without them")
    if not (np.diff(np.asarray(stage.schedule(jnp.arange(steps + 1) / steps))) < 0).all():
        raise UserError(f"the schedule can't tell {steps} steps apart: set --steps to at most {STEPS}")

    @jax.jit
    def terms_of(params: Params, clean: Samples, inputs: Inputs, key: RandomKey) -> BoundTerms:
        return bound_terms(
            make_denoiser(stage, params, conditions_of(stage, inputs)), clean, key, stage.schedule, steps
        )

    measured = []
    for first in range(0, len(numbers), batch_size):
        here = list(numbers[first : first + batch_size])
        images = np.stack([to_image(reference.image(number, stage.resolution)) for number in here])
        # The brightness of RGB is no whole number, which the bound's last term needs.
        clean = jnp.asarray(np.round((with_channels(images, stage.shape[-1]) + 1.0) * 127.5) / 127.5 - 1.0, jnp.float32)
        small = None
        if stage.low_resolution is not None:
            small = jnp.asarray(with_channels(resize_area(images, stage.low_resolution), stage.shape[-1]))
        if stage.reads_captions:
            captions = [reference.captions[number][0] if reference.captions[number] else "" for number in here]
        else:
            captions = list(stage.classes.names[:1] if stage.classes else [""]) * len(here)
        inputs = inputs_of_captions(stage, store, captions, seed, small, tokenizer)
        if stage.classes is not None:
            classes = [stage.classes.label_of(reference.read(number).key) for number in here]
            inputs = inputs._replace(conditions=inputs.conditions._replace(label=to_labels(classes)))
        key = jax.random.fold_in(jax.random.key(seed), first)
        measured.append(jax.device_get(terms_of(trained.params, clean, inputs, key)))
    prior, per_step, data = (np.concatenate(parts) for parts in zip(*measured, strict=True))
    totals = prior + per_step.sum(1) + data
    return MeasuredBound(
        total=float(totals.mean()),
        error=float(totals.std() / np.sqrt(len(totals))),
        prior=float(prior.mean()),
        data=float(data.mean()),
        steps=tuple(per_step.mean(0).tolist()),
        images=len(numbers),
    )
