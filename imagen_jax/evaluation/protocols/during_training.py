"""Evaluates a stage at regular steps of its training, on a small sample from the averaged parameters.

    training images, their captions -> images sampled by the stage -> features -> Fréchet distance, caption recall
    -> evaluations.jsonl, evaluations.png

A super-resolution stage is conditioned on small versions of the training images. Distances of so few images are biased
upwards, and compare only with distances of the same run.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from imagen_jax.array_types import Samples, SmallImages
from imagen_jax.cascade.image_files import to_pixels
from imagen_jax.cascade.stage import Stage
from imagen_jax.cascade.stage_inputs import Inputs, from_host, inputs_of_captions, to_host
from imagen_jax.cascade.stage_sampler import make_draw_stage
from imagen_jax.config.sections import PreviewConfig
from imagen_jax.data.pixels import resize_area, to_image, with_channels
from imagen_jax.encoders.caption_tokens import CaptionTokenizer
from imagen_jax.encoders.embedding_store import Embeddings
from imagen_jax.encoders.feature_network import FeatureNetwork
from imagen_jax.encoders.feature_networks import FEATURE_NETWORKS, extract_features
from imagen_jax.errors import UserError, lookup
from imagen_jax.evaluation.metrics.caption_recall import measure_caption_recall
from imagen_jax.evaluation.metrics.frechet import frechet_distance, moments_of
from imagen_jax.evaluation.protocols.caption_choice import choose_captions
from imagen_jax.evaluation.protocols.references import Reference, open_prepared
from imagen_jax.runtime import processes
from imagen_jax.runtime.progress_bars import compile_first
from imagen_jax.sharding.placement import batch_placement, num_batch_shards, replicated, rows_of_batches
from imagen_jax.storage.paths import Path
from imagen_jax.training.loop import StepInfo
from imagen_jax.training.monitoring.metrics import MetricsWriter, read_metrics

FILE_NAME = "evaluations.jsonl"
PLOT_NAME = "evaluations.png"
BATCH = 32


class Sample(NamedTuple):
    """The captions to sample images for, and the images to compare with.

    Attributes:
        captions: one caption for each sampled image.
        own: index of each caption's own image in ``compared``.
        compared: numbers of the compared images in the data set.
    """

    captions: tuple[str, ...]
    own: Int[np.ndarray, " samples"]
    compared: tuple[int, ...]


def choose_sample(reference: Reference, samples: int, compared: int, seed: int) -> Sample:
    """Chooses at most ``compared`` images to compare with, and captions of the first ``samples`` of them."""
    captioned = sum(1 for captions in reference.captions if captions)
    choice = choose_captions(reference.captions, min(compared, captioned), seed)
    count = min(samples, len(choice.captions))
    assert choice.images is not None
    return Sample(choice.captions[:count], np.arange(count), choice.images)


class TrainingEvaluation:
    """A training hook that samples images, measures them, appends the metrics to a file, and updates a plot.

    Args:
        preview: the numbers of sampled and compared images, and the features.
        seed: seed of the choice of images and of the noise.
        stage: the stage that trains.
        folder: folder of the prepared data set.
        store: embeddings of the data set's captions.
        workdir: folder of the run.
        tokenizer: the tokenizer of a stage that is told token ids.

    Raises:
        UserError: the feature network is unknown or can't be loaded.
    """

    def __init__(
        self,
        preview: PreviewConfig,
        seed: int,
        stage: Stage,
        folder: Path,
        store: Embeddings | None,
        workdir: Path,
        tokenizer: CaptionTokenizer | None = None,
    ) -> None:
        if not stage.reads_captions:
            raise UserError(
                "an evaluation during training draws the captions of images, and this stage has no text: set "
                "--config.training.evaluate_every=0"
            )
        network = lookup(FEATURE_NETWORKS, preview.features, "preview.features")
        reference = open_prepared(folder, "train")
        self.stage, self.workdir = stage, workdir
        self.sample = choose_sample(reference, preview.samples, preview.compared, seed)
        self.inputs = self._inputs(store, tokenizer, reference, seed)
        sample_stage = make_draw_stage(stage)

        def sample_all(params: Any, inputs: Inputs) -> Samples:
            return sample_stage(params, from_host(inputs))

        self._sample_all = sample_all
        self._compiled: Callable[..., Any] | None = None
        if processes.is_process_zero():
            self.network: FeatureNetwork = network()
            compared = (reference.image(number, stage.resolution) for number in self.sample.compared)
            self.features = extract_features(self.network, compared, len(self.sample.compared)).pooled

    def _inputs(
        self, store: Embeddings | None, tokenizer: CaptionTokenizer | None, reference: Reference, seed: int
    ) -> Inputs:
        """Returns the sampler's inputs as host arrays, identical in each process."""
        small: SmallImages | None = None
        if self.stage.low_resolution is not None:
            own = self.sample.compared[: len(self.sample.captions)]
            images = [to_image(reference.image(number, self.stage.resolution)) for number in own]
            smaller = resize_area(np.stack(images), self.stage.low_resolution)
            small = jnp.asarray(with_channels(smaller, self.stage.shape[-1]))
        return to_host(inputs_of_captions(self.stage, store, self.sample.captions, seed, small, tokenizer))

    def _sample_images(self, info: StepInfo) -> np.ndarray:
        """Samples the images in batches of one size, sharded over all devices."""
        placement: Any = info.state.step.sharding
        mesh = placement.mesh
        count = len(self.sample.captions)
        parts = num_batch_shards(mesh)
        size = -(-min(BATCH, count) // parts) * parts
        if self._compiled is None:
            self._compiled = compile_first(
                jax.jit(
                    self._sample_all, in_shardings=(None, batch_placement(mesh, size)), out_shardings=replicated(mesh)
                ),
                "the evaluation's sampler",
            )
        sampled = []
        for rows in rows_of_batches(count, size):
            batch = jax.tree.map(lambda array, rows=rows: array[rows], self.inputs)
            sampled.append(np.asarray(self._compiled(info.state.ema_params, batch)))
        return np.concatenate(sampled)[:count]

    def __call__(self, number: int, info: StepInfo) -> None:
        """Samples with the averaged parameters, computes the metrics, and writes the file and the plot."""
        images = to_pixels(self._sample_images(info))
        if not processes.is_process_zero():
            return
        features = extract_features(self.network, images, show=False).pooled
        recall = measure_caption_recall(features, self.sample.own, self.features)
        line = {f"caption_recall_at_{recall.k}": recall.recall, "chance": recall.chance}
        if self.network.distance:
            line["frechet_distance"] = frechet_distance(moments_of(features), moments_of(self.features))
        # Drop lines of this step and later ones, which come from an interrupted run.
        with MetricsWriter(self.workdir, number - 1, name=FILE_NAME) as writer:
            writer.write(number, line)
        subtitle = f"{len(images)} sampled images, {self.network.title}, against {len(self.features)} training images"
        # Imported here, because the import is slow and most training runs do not need it.
        from imagen_jax.evaluation.reports.metric_plot import plot_metrics

        plot_metrics(read_metrics(self.workdir, FILE_NAME), self.workdir / PLOT_NAME, subtitle)


def is_measured(workdir: Path, number: int) -> bool:
    """Returns whether the file of metrics has a line for a step."""
    return any(line["step"] == number for line in read_metrics(workdir, FILE_NAME))
