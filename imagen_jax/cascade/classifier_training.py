"""Trains a classifier of noisy images, and measures its accuracy.

config -> classifier, batches of a data set -> labels by key -> run_loop -> checkpoints, metrics.jsonl
                                            validation split -> accuracy.json
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from imagen_jax.cascade.classifier import (
    NO_CLASS,
    Classifier,
    LabelledImages,
    build_classifier,
    initial_params,
    make_loss,
)
from imagen_jax.cascade.experiment import ClassifierExperiment, read_classifier_experiment
from imagen_jax.config.reading import Given
from imagen_jax.config.sections import DataConfig
from imagen_jax.data.batches import Batches, make_batches
from imagen_jax.data.data_sets import DataSets, open_data_sets
from imagen_jax.data.transforms import make_example
from imagen_jax.diffusion.process import add_noise
from imagen_jax.errors import UserError
from imagen_jax.runtime import processes
from imagen_jax.runtime.backend import compiler_options
from imagen_jax.runtime.preemption import explain_exit, watching_for_exit
from imagen_jax.runtime.progress_bars import compile_first
from imagen_jax.runtime.seeds import check_seed
from imagen_jax.storage.paths import Path, write_whole
from imagen_jax.training.checkpoints.reading import place_here
from imagen_jax.training.checkpoints.saving import Saving, make_check
from imagen_jax.training.checkpoints.store import CheckpointStore
from imagen_jax.training.folder_kinds import check_trainable
from imagen_jax.training.loop import Hook, LoopClock, StepInfo, run_loop
from imagen_jax.training.monitoring.metrics import MetricsWriter, Progress
from imagen_jax.training.monitoring.nonfinite import NonfiniteGuard
from imagen_jax.training.optimizer import check_schedule, make_optimizer, make_schedule
from imagen_jax.training.state import TrainState, initial_state
from imagen_jax.training.step import make_train_step
from imagen_jax.training.workdir import check_continues, keep_config, make_workdir

TIMES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Diffusion times at which the accuracy is measured: 0 is clean."""


def train_classifier(config: Given, workdir: Path) -> dict[str, Any]:
    """Trains up to ``config.training.steps``, from the newest checkpoint if there is one.

    Returns:
        The contents of ``accuracy.json``.

    Raises:
        UserError: the user must fix the config, the data, the workdir or the disk space.
        LeavingError: SIGTERM or Ctrl-C was received; a checkpoint is written.
    """
    experiment = read_classifier_experiment(config)
    classifier = build_classifier(experiment.classifier)
    seed = check_seed(experiment.seed, "config.seed")
    check_trainable(workdir, "classifier", experiment.data.to_dict())
    check_continues(workdir, experiment.given)
    make_workdir(workdir)
    with processes.lock_on_process_zero(workdir, "--workdir") as check_workdir:
        return train_and_measure(experiment, classifier, workdir, seed, check_workdir)


def train_and_measure(
    config: ClassifierExperiment, classifier: Classifier, workdir: Path, seed: int, check_workdir: Callable[[], None]
) -> dict[str, Any]:
    """Trains in a workdir that this process has locked, then measures and writes the accuracy."""
    training = config.training
    data_sets, batches = open_data(config.data, training.batch_size, config.seed, classifier)
    optimizer = make_optimizer(**config.optimizer.to_dict())
    step = make_train_step(
        make_loss(classifier),
        optimizer,
        ema_decay=training.ema_decay,
        ema_warm_up=training.ema_warm_up,
        schedule=make_schedule(config.optimizer.to_dict()),
    )
    params_key, run_key = jax.random.split(jax.random.key(seed))
    make_state = jax.jit(lambda: initial_state(initial_params(classifier, params_key), optimizer, run_key))
    with CheckpointStore(workdir / "checkpoints", training.keep_checkpoints, training.keep_every) as checkpoints:
        done = checkpoints.latest_step() or 0
        shapes = place_here(jax.eval_shape(make_state))
        data_state: dict[str, Any] = {}
        if done < training.steps:
            check_schedule(make_schedule(config.optimizer.to_dict()), training.steps)
        if done:
            state, data_state = checkpoints.restore(shapes)
            batches.set_state(data_state)
            done = int(state.step)
        else:
            state = make_state()
        guard = NonfiniteGuard(training, workdir, done, checkpoints, shapes)
        guard.set_state(data_state)
        keep_config(workdir, config.given, {"data_set": data_sets.fingerprint})
        with MetricsWriter(workdir, done) as writer, Progress("Training a classifier", done, training.steps) as bar:

            def log(number: int, info: StepInfo) -> None:
                loss, rate = float(info.metrics["loss"]), float(info.metrics["learning_rate"])
                writer.write(number, {"loss": loss, "learning_rate": rate, **guard.metrics})
                clock = info.clock
                bar.update(number, loss, training.batch_size * clock.steps / clock.total_seconds)

            saving = Saving(checkpoints, training.checkpoint_every, training.steps, guard.get_state)
            with watching_for_exit() as should_leave:
                state = run_loop(
                    state,
                    compile_first(
                        jax.jit(step, donate_argnums=0, compiler_options=compiler_options(jax.default_backend())),
                        "the training step",
                    ),
                    guard.watch(batches),
                    steps=training.steps,
                    put=lambda batch: label(batch, classifier),
                    hooks=[
                        make_check(check_workdir),
                        Hook("loop", 1, guard),
                        Hook("log", training.log_every, log),
                        saving.hook(),
                    ],
                    clock=LoopClock(),
                    should_leave=should_leave,
                )
                checkpoints.wait()
    if int(state.step) < training.steps:
        raise explain_exit(int(state.step))
    accuracy = measure_accuracy(classifier, state, data_sets)
    write_whole(workdir / "accuracy.json", (json.dumps(accuracy, indent=2) + "\n").encode())
    return accuracy


def open_data(data: DataConfig, batch_size: int, seed: int, classifier: Classifier) -> tuple[DataSets, Batches]:
    """Builds or opens the data set, and opens the batches of its training split."""
    data_sets = open_data_sets(
        data.source, data.resolution, data.data_dir, data.validation_fraction, dict(data.options)
    )
    batches = make_batches(
        data_sets.load("train"),
        make_example(classifier.resolution),
        batch_size,
        seed=seed,
        cache=data.cache,
        mirror=data.mirror,
    )
    return data_sets, batches


def label(batch: Mapping[str, Any], classifier: Classifier) -> LabelledImages:
    """Converts a host batch into labelled images."""
    labels = np.array([classifier.classes.label_of(key) for key in batch["key"]], np.int32)
    return LabelledImages(jnp.asarray(batch["image"]), jnp.asarray(labels))


def measure_accuracy(classifier: Classifier, state: TrainState, data_sets: DataSets) -> dict[str, Any]:
    """Measures the accuracy of the averaged parameters on the validation split.

    Returns:
        ``told_right``, the accuracy in [0, 1] by time; ``chance``, the fraction of the most frequent class; ``images``,
        the number of images; ``classes``, their names.

    Raises:
        UserError: no image of the validation split has a class.
    """
    images, labels = read_validation(classifier, data_sets)
    if not len(labels):
        raise UserError("no image of the validation split has a class: increase --config.data.validation_fraction")
    noise = jax.random.normal(jax.random.key(0), images.shape)
    guess = jax.jit(lambda noisy, log_snr: classifier.network.apply({"params": state.ema_params}, noisy, log_snr))
    accuracy = {}
    for time in TIMES:
        log_snr = jnp.broadcast_to(classifier.schedule(jnp.asarray(time)), labels.shape)
        guesses = np.asarray(guess(add_noise(images, noise, log_snr), log_snr)).argmax(1)
        accuracy[str(time)] = float((guesses == labels).mean())
    return {
        "told_right": accuracy,
        "chance": float(np.bincount(labels).max() / len(labels)),
        "images": len(labels),
        "classes": list(classifier.classes.names),
    }


def read_validation(classifier: Classifier, data_sets: DataSets) -> tuple[jax.Array, np.ndarray]:
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
    return jnp.asarray(np.stack(images)) if images else jnp.zeros(shape), np.array(labels, np.int32)
