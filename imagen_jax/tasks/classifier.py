"""The training of a classifier of noisy images, as a task; and its accuracy.

config -> classifier -> cross-entropy at a random noise level -> Task
a host batch -> images, labels by key -> devices
validation split -> accuracy by noise level
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from imagen_jax.array_types import RandomKey, Scalar
from imagen_jax.cascade.classifier import (
    Classifier,
    LabelledImages,
    Params,
    build_classifier,
    initial_params,
    make_loss,
    parameter_axes,
)
from imagen_jax.cascade.experiment import ClassifierExperiment
from imagen_jax.data.batches import check_batch_size
from imagen_jax.data.classes import NO_CLASS
from imagen_jax.data.data_sets import DataSets
from imagen_jax.data.device_feed import to_devices
from imagen_jax.data.transforms import make_example
from imagen_jax.diffusion.process import add_noise
from imagen_jax.errors import UserError
from imagen_jax.sharding.placement import batch_placement, replicated, rows_of_batches
from imagen_jax.storage.paths import Path
from imagen_jax.tasks.training_data import make_training_batches, open_agreed
from imagen_jax.training.state import TrainState
from imagen_jax.training.task import Task, TaskData

TIMES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Diffusion times at which the accuracy is measured: 0 is clean."""


def classifier_task(config: ClassifierExperiment) -> Task:
    """Makes the task of training a classifier.

    Raises:
        UserError: a part of the config is unknown.
    """
    classifier = build_classifier(config.classifier)
    size, side = config.training.batch_size, config.classifier.resolution
    of_batch = make_loss(classifier)
    shapes: Any = jax.ShapeDtypeStruct((size, side, side, 3), jnp.float32), jax.ShapeDtypeStruct((size,), jnp.int32)

    def loss(params: Params, batch: LabelledImages, key: RandomKey) -> tuple[Scalar, None]:
        return of_batch(params, batch, key), None

    def open_data(workdir: Path, batch: LabelledImages) -> TaskData:
        opened = open_agreed(config.data)
        images = opened.load("train")
        check_batch_size(size, jax.process_count(), len(images))
        batches = make_training_batches(config.data, opened, images, make_example(side), size, config.seed)
        return TaskData(batches, make_feed(classifier, batch), {"data_set": opened.fingerprint}, config.given)

    return Task(
        kind="classifier",
        saved=config.given,
        seed=config.seed,
        training=config.training,
        optimizer=config.optimizer,
        mesh=config.mesh,
        initial_params=partial(initial_params, classifier),
        parameter_axes=partial(parameter_axes, classifier),
        batch=LabelledImages(*shapes),
        loss=loss,
        open_data=open_data,
    )


def make_feed(classifier: Classifier, batch: LabelledImages) -> Callable[[Mapping[str, Any]], LabelledImages]:
    """Makes the function that puts host batches on devices: images, and the label of each by its key."""
    placement = batch.image.sharding

    def feed(examples: Mapping[str, Any]) -> LabelledImages:
        labels = np.array([classifier.classes.label_of(key) for key in examples["key"]], np.int32)
        return LabelledImages(*to_devices((examples["image"], labels), placement))

    return feed


def measure_accuracy(config: ClassifierExperiment, state: TrainState) -> dict[str, Any]:
    """Measures the accuracy of the averaged parameters on the validation split; every process must call it.

    Returns:
        ``told_right``, the accuracy in [0, 1] by time; ``chance``, the fraction of the most frequent class; ``images``,
        the number of images; ``classes``, their names.

    Raises:
        UserError: no image of the validation split has a class.
    """
    classifier = build_classifier(config.classifier)
    images, labels = read_validation(classifier, open_agreed(config.data))
    if not len(labels):
        raise UserError("no image of the validation split has a class: increase --config.data.validation_fraction")
    placement: Any = state.step.sharding
    apply: Any = classifier.network.apply

    size = config.training.batch_size
    sharded = batch_placement(placement.mesh, size)
    noise = np.asarray(jax.random.normal(jax.random.key(0), images.shape))

    @partial(jax.jit, in_shardings=(None, sharded, sharded, sharded), out_shardings=replicated(placement.mesh))
    def guess(params: Params, images: jax.Array, noise: jax.Array, log_snr: jax.Array) -> jax.Array:
        return apply({"params": params}, add_noise(images, noise, log_snr), log_snr).argmax(1)

    def guess_all(log_snr: np.ndarray) -> np.ndarray:
        guesses = []
        for rows in rows_of_batches(len(labels), size):
            guesses.append(np.asarray(guess(state.ema_params, images[rows], noise[rows], log_snr)))
        return np.concatenate(guesses)[: len(labels)]

    accuracy = {}
    for time in TIMES:
        log_snr = np.full(size, classifier.schedule(jnp.asarray(time)), np.float32)
        accuracy[str(time)] = float((guess_all(log_snr) == labels).mean())
    return {
        "told_right": accuracy,
        "chance": float(np.bincount(labels).max() / len(labels)),
        "images": len(labels),
        "classes": list(classifier.classes.names),
    }


def read_validation(classifier: Classifier, data_sets: DataSets) -> tuple[np.ndarray, np.ndarray]:
    """Reads the images of the validation split that have a class, and their labels."""
    transform = make_example(classifier.resolution)
    images, labels = [], []
    for source in data_sets.load("validation").sources:
        for index in range(len(source)):
            stored = source[index]
            number = classifier.classes.label_of(stored.key)
            if number != NO_CLASS:
                images.append(transform.finish(transform.prepare(stored).pixels[None])["image"][0])
                labels.append(number)
    shape = (0, classifier.resolution, classifier.resolution, 3)
    return np.stack(images) if images else np.zeros(shape, np.float32), np.array(labels, np.int32)
