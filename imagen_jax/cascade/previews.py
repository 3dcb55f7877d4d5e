"""Writes grids of samples during training: the first sign of whether a stage follows its captions.

A base samples the prompts of ``config.preview``, or a few captions of its training data if there are none. A
super-resolution stage enlarges the small versions of images of the validation split, or of training images if that
split is empty, as it can be with a few dozen images. Each row of its grid shows the small image, the sample and the
original.
"""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from imagen_jax.array_types import Images, Samples, SmallImages
from imagen_jax.cascade.experiment import Experiment
from imagen_jax.cascade.image_files import labelled_grid, save_png, to_pixels
from imagen_jax.cascade.stage import Stage
from imagen_jax.cascade.stage_inputs import Inputs, from_host, inputs_of_captions, to_host
from imagen_jax.cascade.stage_sampler import make_draw_stage
from imagen_jax.data.classes import CLASSES
from imagen_jax.data.splits import Split
from imagen_jax.data.stored_images import load_split, read_captions, read_manifest
from imagen_jax.data.transforms import make_super_resolution_example
from imagen_jax.encoders.caption_tokens import CaptionTokenizer
from imagen_jax.encoders.embedding_store import Embeddings
from imagen_jax.errors import UserError, lookup
from imagen_jax.runtime import processes
from imagen_jax.runtime.progress_bars import compile_first
from imagen_jax.sharding.placement import replicated
from imagen_jax.storage.paths import Path, create_folder
from imagen_jax.training.loop import StepInfo
from imagen_jax.training.workdir import config_path, has_begun, read_config

ENLARGED_EXAMPLES = 4
"""Max number of images that a super-resolution stage enlarges."""

PROMPTS = 8
"""Max number of captions that are chosen as prompts."""

CAPTIONS_READ = 100_000
"""Max number of images whose captions may be chosen."""


def is_drawn(workdir: Path, number: int) -> bool:
    """Returns whether the preview of a step exists."""
    return preview_path(workdir, number).exists()


def preview_path(workdir: Path, number: int) -> Path:
    """Returns the path of the preview of a step."""
    return workdir / "previews" / f"{number:07d}.png"


def needs_prompts(config: Experiment) -> bool:
    """Returns whether a config's previews need prompts and it has none, so that they are chosen from the captions."""
    return config.training.preview_every > 0 and config.stage.low_resolution is None and not config.preview.prompts


def with_prompts(config: Experiment, prompts: Sequence[str]) -> Experiment:
    """Returns the config with other prompts of its previews."""
    return dataclasses.replace(config, preview=dataclasses.replace(config.preview, prompts=tuple(prompts)))


def recall_prompts(config: Experiment, workdir: Path) -> Experiment:
    """Returns the config with the prompts that the run in ``workdir`` has, if it needs any and the run has begun."""
    if needs_prompts(config) and has_begun(workdir) and config_path(workdir).exists():
        return with_prompts(config, read_config(workdir).get("preview", {}).get("prompts", ()))
    return config


def choose_prompts(config: Experiment, folder: Path) -> tuple[str, ...]:
    """Returns the prompts of a config's previews; if it needs some, ``PROMPTS`` distinct captions of the data.

    They are spread over the training split; the same data and ``config.seed`` give the same ones. Of a large data set
    only the first ``CAPTIONS_READ`` images count.

    Args:
        config: the config.
        folder: the prepared data set.

    Raises:
        UserError: the data set has no captions.
    """
    captioned = config.stage.text or config.stage.tokens
    if not captioned and config.training.preview_every > 0 and config.stage.low_resolution is None:
        return choose_classes(config)
    if not needs_prompts(config):
        return config.preview.prompts
    images = itertools.islice(read_captions(folder, "train"), CAPTIONS_READ)
    captions = list(dict.fromkeys(of_image[0] for of_image in images if of_image and of_image[0].strip()))
    if not captions:
        raise UserError(
            f"{folder} has no captions to preview: give prompts, as in --config.preview.prompts=\"('red apple',)\", or "
            "set --config.training.preview_every=0"
        )
    generator = np.random.default_rng(config.seed)
    parts = np.array_split(np.arange(len(captions)), min(PROMPTS, len(captions)))
    return tuple(captions[generator.choice(part)] for part in parts)


def choose_classes(config: Experiment) -> tuple[str, ...]:
    """Returns the prompts of a base without text: classes, or empty ones if it is told nothing.

    Raises:
        UserError: a prompt of the config is no class.
    """
    if not config.stage.classes:
        return ("",) * PROMPTS
    names = lookup(CLASSES, config.stage.classes, "stage.classes").names
    for prompt in config.preview.prompts:
        if prompt not in names:
            raise UserError(
                f"config.preview.prompts has {prompt!r}, and the prompts of a stage without text are classes, such as "
                f"{names[0]!r}: set it to classes, or to () for the first ones"
            )
    return config.preview.prompts or tuple(names[:PROMPTS])


def make_preview(
    prompts: Sequence[str],
    seed: int,
    stage: Stage,
    folder: Path,
    store: Embeddings | None,
    workdir: Path,
    tokenizer: CaptionTokenizer | None = None,
    image_vectors: Mapping[str, np.ndarray] | None = None,
) -> Callable[[int, StepInfo], None]:
    """Makes the hook that samples with the averaged parameters and writes ``previews/<step>.png``.

    Args:
        prompts: the prompts of a base.
        seed: seed of the noise.
        stage: the stage.
        folder: the prepared data set, for the images that a super-resolution stage enlarges.
        store: embeddings of the data set's captions and the preview's prompts; None for a stage without text.
        workdir: the run's folder.
        tokenizer: the tokenizer of a stage that is told token ids.
        image_vectors: the vector of an image of each prompt, for a decoder. Prompts without one are sampled without.
    """
    sample = make_draw_stage(stage)
    small: SmallImages | None = None
    captions, original = list(prompts), None
    if stage.low_resolution is not None:
        captions, small, original = first_examples(folder, stage)
    told = inputs_of_captions(stage, store, captions, seed, small, tokenizer, image_vectors=image_vectors)
    here = to_host(told)

    def sample_everywhere(params: Any, inputs: Inputs) -> Samples:
        return sample(params, from_host(inputs))

    programs: list[Callable[..., Any]] = []

    def preview(number: int, info: StepInfo) -> None:
        placement: Any = info.state.step.sharding
        everywhere = replicated(placement.mesh)
        # The inputs are host arrays, because they are the same in every process.
        if not programs:
            programs.append(compile_first(jax.jit(sample_everywhere, out_shardings=everywhere), "the preview"))
        samples = np.asarray(programs[0](info.state.ema_params, here))
        if not processes.is_process_zero():
            return
        if small is None:
            grid = labelled_grid(to_pixels(samples), captions, 4)
        else:
            columns: list[Any] = [enlarge_pixels(small, stage.resolution), samples, original]
            rows = np.stack(columns, axis=1).reshape(-1, *stage.shape)
            labels = [label for caption in captions for label in (f"{stage.low_resolution} px", caption, "original")]
            grid = labelled_grid(to_pixels(rows), labels, len(columns))
        path = preview_path(workdir, number)
        create_folder(path.parent)
        save_png(path, grid, {"step": str(number)})

    return preview


def first_examples(folder: Path, stage: Stage) -> tuple[list[str], Images, Any]:
    """Returns captions, small images and originals of the first validation images, uncropped.

    If the validation split is empty, the first training images take its place, and a warning says so.
    """
    split: Split = "validation"
    if not read_manifest(folder)["counts"][split]:
        logging.warning(
            "the validation split of %s is empty: previews enlarge training images (data.validation_fraction keeps "
            "some for validation)",
            folder,
        )
        split = "train"
    images = load_split(folder, split)
    assert stage.low_resolution is not None
    transform = make_super_resolution_example(stage.low_resolution, stage.resolution, channels=stage.shape[-1])
    chosen = (images[index] for index in range(len(images)))
    class_of = None if stage.classes is None or stage.reads_captions else stage.classes.class_of
    if class_of is not None:
        chosen = (image for image in chosen if class_of(image.key) is not None)
    prepared = [transform.prepare(image) for image in itertools.islice(chosen, ENLARGED_EXAMPLES)]
    if not prepared:
        raise UserError(f"no image of {folder} has a class of config.stage.classes to preview: set preview_every=0")
    arrays = transform.finish(np.stack([image.pixels for image in prepared]))
    captions = [image.captions[0] if class_of is None else class_of(image.key) or "" for image in prepared]
    return captions, jnp.asarray(arrays["low_res"]), arrays["image"]


def enlarge_pixels(image: SmallImages, resolution: int) -> Images:
    """Enlarges images to ``resolution`` by repeating pixels, so that small images show unsmoothed."""
    times = resolution // image.shape[1]
    return image.repeat(times, axis=1).repeat(times, axis=2)
