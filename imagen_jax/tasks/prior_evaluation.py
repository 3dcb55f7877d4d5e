"""Measures a prior during its training: what it draws for held-out captions, beside the captions' own embeddings.

held-out captions -> two draws of the averaged parameters -> cosines, recalls, diversity (``evaluation.metrics.prior``)
-> evaluations.jsonl, evaluations.png in the workdir
training pairs -> errors of the averaged parameters' estimates -> estimate_errors.json, for the sampler "analytic"
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from imagen_jax.array_types import Samples
from imagen_jax.cascade.estimate_errors import make_estimate_errors, write_estimate_errors
from imagen_jax.cascade.experiment import Experiment
from imagen_jax.cascade.stage import Stage
from imagen_jax.cascade.stage_inputs import Inputs, from_host, inputs_of_captions, to_host
from imagen_jax.cascade.stage_sampler import make_draw_stage
from imagen_jax.data.splits import Split
from imagen_jax.data.stored_images import StoredImage
from imagen_jax.encoders.encoder import vectors_reader
from imagen_jax.encoders.image_vectors import ImageVectors
from imagen_jax.errors import UserError
from imagen_jax.evaluation.metrics.prior import EmbeddingPairs, measure_prior
from imagen_jax.evaluation.protocols.during_training import FILE_NAME, PLOT_NAME
from imagen_jax.runtime import processes
from imagen_jax.runtime.progress_bars import compile_first
from imagen_jax.sharding.placement import replicated
from imagen_jax.storage.paths import Path
from imagen_jax.tasks.stage_data import StageData
from imagen_jax.training.loop import StepInfo
from imagen_jax.training.monitoring.append_file import print_line
from imagen_jax.training.monitoring.metrics import MetricsWriter, read_metrics

DRAWS = 2
MIN_TRAINING_PAIRS = 10
ERROR_PAIRS = 512
"""Max number of training pairs for ``estimate_errors``."""

MAX_TRAINING_PAIRS = 20_000
"""Max number of training pairs of the regression that a prior is compared with."""


class CaptionedVectors(NamedTuple):
    """Pairs of one split.

    Attributes:
        texts: one caption of each image.
        pairs: embeddings of images and captions.
    """

    texts: tuple[str, ...]
    pairs: EmbeddingPairs


def make_prior_evaluation(
    config: Experiment, stage: Stage, data: StageData, workdir: Path
) -> Callable[[int, StepInfo], None]:
    """Makes the hook.

    Args:
        config: the config; ``preview.samples`` is the max number of held-out images.
        stage: the prior.
        data: its data.
        workdir: folder of the run.

    Raises:
        UserError: the stage has no text with vectors, its vectors are no stored ones, or no images are held out.
    """
    if data.image_vectors is None or vectors_reader(data.store) is None:
        raise UserError(
            "a prior is measured by a CLIP's embeddings of images and captions: set config.embedding.clip and "
            "config.text.encoder='clip', or config.training.evaluate_every=0"
        )
    vectors = data.image_vectors
    held_out = read_pairs(data, vectors, "validation", config.preview.samples, stage.text_length)
    if len(set(held_out.texts)) < 2:
        raise UserError("fewer than two captions are held out to measure the prior: raise data.validation_fraction")
    if len(data.data_sets.load("train")) < MIN_TRAINING_PAIRS:
        raise UserError(
            f"a prior is compared with a regression of {MIN_TRAINING_PAIRS} training images or more, and there are "
            "fewer: set config.training.evaluate_every=0"
        )
    training: list[CaptionedVectors] = []
    inputs = [
        to_host(inputs_of_captions(stage, data.store, held_out.texts, config.seed, index=index))
        for index in range(DRAWS)
    ]
    sample, write_errors = make_draw_stage(stage), make_error_writer(config, stage, data, workdir)
    programs: list[Callable[..., Any]] = []

    def sample_everywhere(params: Any, inputs: Inputs) -> Samples:
        return sample(params, from_host(inputs))

    def evaluate(number: int, info: StepInfo) -> None:
        placement: Any = info.state.step.sharding
        if not programs:
            jitted = jax.jit(sample_everywhere, out_shardings=replicated(placement.mesh))
            programs.append(compile_first(jitted, "the evaluation's sampler"))
        draws = [np.asarray(programs[0](info.state.ema_params, each)) for each in inputs]
        write_errors(info)
        if not processes.is_process_zero():
            return
        draws = [np.asarray(stage.space.from_samples(drawn)) for drawn in draws]
        if not all(np.isfinite(drawn).all() for drawn in draws):
            print_line(f"warning: the prior of step {number} draws numbers that are not finite, so it is not measured")
            return
        if not training:
            # Read here, for other processes need none of it.
            training.append(read_pairs(data, vectors, "train", MAX_TRAINING_PAIRS, stage.text_length))
        line = measure_prior(draws, held_out.pairs, held_out.texts, training[0].pairs)
        # Drop lines of this step and later ones, which come from an interrupted run.
        with MetricsWriter(workdir, number - 1, name=FILE_NAME) as writer:
            writer.write(number, line)
        # Imported here, because the import is slow and most training runs do not need it.
        from imagen_jax.evaluation.reports.metric_plot import plot_metrics

        plot_metrics(read_metrics(workdir, FILE_NAME), workdir / PLOT_NAME, f"{len(held_out.texts)} held-out images")

    return evaluate


def make_error_writer(config: Experiment, stage: Stage, data: StageData, workdir: Path) -> Callable[[StepInfo], None]:
    """Makes the function that writes the table of the sampler "analytic", of at most ``ERROR_PAIRS`` training pairs."""
    assert data.image_vectors is not None
    known = read_pairs(data, data.image_vectors, "train", ERROR_PAIRS, stage.text_length)
    inputs = to_host(inputs_of_captions(stage, data.store, known.texts, config.seed, index=DRAWS))
    samples = np.asarray(stage.space.to_samples(known.pairs.images), np.float32)
    measure = make_estimate_errors(stage)
    programs: list[Callable[..., Any]] = []

    def measure_everywhere(params: Any, inputs: Inputs, samples: Samples) -> Any:
        return measure(params, from_host(inputs), samples)

    def write(info: StepInfo) -> None:
        placement: Any = info.state.step.sharding
        if not programs:
            programs.append(jax.jit(measure_everywhere, out_shardings=replicated(placement.mesh)))
        errors = np.asarray(programs[0](info.state.ema_params, inputs, samples))
        if processes.is_process_zero() and np.isfinite(errors).all():
            write_estimate_errors(workdir, errors)

    return write


def read_pairs(data: StageData, vectors: ImageVectors, split: Split, limit: int, length: int) -> CaptionedVectors:
    """Reads at most ``limit`` images of a split, spread over it, with the first caption of each.

    ``length`` is the number of tokens that the stage keeps of a caption.
    """
    stored = list(captioned(data, split, limit))
    if not stored:
        none = np.zeros((0, vectors.stored.width), np.float32)
        return CaptionedVectors((), EmbeddingPairs(none, none))
    keys, texts = [one.key for one in stored], tuple(one.captions[0] for one in stored)
    images = vectors({"key": keys, "mirrored": np.zeros(len(keys), bool)})
    reader = vectors_reader(data.store)
    assert reader is not None and data.store is not None
    captions = [
        np.asarray(reader(data.store.lookup(list(texts[first : first + 256]), length)))
        for first in range(0, len(texts), 256)
    ]
    return CaptionedVectors(texts, EmbeddingPairs(images, np.concatenate(captions)))


def captioned(data: StageData, split: Split, limit: int) -> Iterator[StoredImage]:
    """Yields at most ``limit`` images with captions, spread evenly over the split."""
    images = data.data_sets.load(split)
    everything = [(source, index) for source in images.sources for index in range(len(source))]
    step = max(1, -(-len(everything) // limit))
    stored = (source[index] for source, index in everything[::step])
    yield from (one for one in stored if one.captions)
