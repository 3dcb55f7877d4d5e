"""Builds a classifier of noisy images from its config, for training and for classifier guidance.

config -> Classifier (network, classes, schedule) -> loss of a batch, for training
workdir -> its averaged parameters -> the log-probability of a class, for ``sampling.guidance``
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from imagen_jax.array_types import Images, PerExample, RandomKey, Scalar
from imagen_jax.cascade.network import build
from imagen_jax.config.reading import read_section
from imagen_jax.config.sections import ClassifierConfig
from imagen_jax.data.classes import CLASSES, NO_CLASS, Classes
from imagen_jax.diffusion.loss import sample_quantiles
from imagen_jax.diffusion.process import add_noise
from imagen_jax.diffusion.schedules import SCHEDULES, Schedule
from imagen_jax.errors import UserError, lookup
from imagen_jax.models.noise_classifier import NoiseClassifier
from imagen_jax.sampling.guidance import MAX_GUIDANCE, ClassifierGuidance
from imagen_jax.sharding.axes import axes_of, remove_logical_axes
from imagen_jax.storage.paths import Path
from imagen_jax.training.checkpoints.store import CheckpointStore
from imagen_jax.training.workdir import read_config, require_sections

Params = Any


class LabelledImages(NamedTuple):
    """A training batch of a classifier.

    Attributes:
        image: clean images, ``(batch, height, width, 3)``.
        label: ``(batch,)``, the class index of each image, or ``NO_CLASS``.
    """

    image: Images
    label: Int[Array, " batch"]


class Classifier(NamedTuple):
    """A classifier without its parameters.

    Attributes:
        network: the Linen module.
        classes: the classes that it predicts.
        resolution: height and width of its images.
        schedule: time to log-SNR, for the noise levels of training.
    """

    network: NoiseClassifier
    classes: Classes
    resolution: int
    schedule: Schedule


def build_classifier(config: ClassifierConfig) -> Classifier:
    """Builds the classifier that ``config.classifier`` describes.

    Raises:
        UserError: a key, the schedule or ``classifier.classes`` is unknown.
    """
    classes = lookup(CLASSES, config.classes, "classifier.classes")
    schedule = lookup(SCHEDULES, config.schedule, "classifier.schedule")
    network = build(NoiseClassifier, config.fields, "classifier", classes=len(classes.names))
    return Classifier(network, classes, config.resolution, schedule)


def make_labelled_params(classifier: Classifier, key: RandomKey) -> Any:
    """Returns random initial parameters; a kernel whose layer names its axes is a ``WithLogicalAxes``."""
    images = jnp.zeros((1, classifier.resolution, classifier.resolution, 3))
    return classifier.network.init(key, images, jnp.zeros((1,)))["params"]


def initial_params(classifier: Classifier, key: RandomKey) -> Params:
    """Returns random initial parameters."""
    return remove_logical_axes(make_labelled_params(classifier, key))


def parameter_axes(classifier: Classifier) -> Any:
    """Returns the logical axis names of each parameter (``sharding.axes``); None for a vector, which has none."""
    return axes_of(jax.eval_shape(lambda: make_labelled_params(classifier, jax.random.key(0))))


def make_loss(classifier: Classifier) -> Callable[[Params, LabelledImages, RandomKey], Scalar]:
    """Makes ``loss(params, batch, key)``: the cross-entropy at a random time, over the images that have a class."""
    apply: Any = classifier.network.apply

    def loss(params: Params, batch: LabelledImages, key: RandomKey) -> Scalar:
        time_key, noise_key, dropout_key = jax.random.split(key, 3)
        log_snr = classifier.schedule(sample_quantiles(time_key, batch.image.shape[0], stratified=True))
        noisy = add_noise(batch.image, jax.random.normal(noise_key, batch.image.shape), log_snr)
        logits = apply({"params": params}, noisy, log_snr, train=True, rngs={"dropout": dropout_key})
        has_class = batch.label != NO_CLASS
        label = jnp.where(has_class, batch.label, 0)
        of_label = jnp.take_along_axis(jax.nn.log_softmax(logits), label[:, None], axis=1)[:, 0]
        return -jnp.sum(of_label * has_class) / jnp.maximum(jnp.sum(has_class), 1)

    return loss


class GuidancePlan(NamedTuple):
    """Classifier guidance whose config is read, but not its parameters.

    Attributes:
        workdir: workdir of the classifier's training.
        classifier: the classifier, built from its config.
        wanted: name of the class to guide towards.
        scale: guidance scale s, see ``ClassifierGuidance``.
    """

    workdir: Path
    classifier: Classifier
    wanted: str
    scale: float

    @property
    def resolution(self) -> int:
        """Height and width of the classifier's images."""
        return self.classifier.resolution

    def load(self) -> ClassifierGuidance:
        """Loads the parameters.

        Raises:
            UserError: there are no parameters, or they do not match the config.
        """
        classifier = self.classifier
        label = classifier.classes.names.index(self.wanted)
        shapes = jax.eval_shape(lambda: initial_params(classifier, jax.random.key(0)))
        with CheckpointStore(self.workdir / "checkpoints") as checkpoints:
            params, step = checkpoints.restore_ema(shapes)
        params = jax.device_get(params)

        apply: Any = classifier.network.apply

        def log_probability(noisy: Images, log_snr: PerExample) -> PerExample:
            logits = apply({"params": params}, noisy, log_snr)
            return jax.nn.log_softmax(logits)[:, label]

        return ClassifierGuidance(log_probability, self.scale, classifier.resolution, self.wanted, step)


def check_scale(scale: float) -> None:
    """Checks a guidance scale.

    Raises:
        UserError: its absolute value exceeds ``MAX_GUIDANCE``, or it is not a number.
    """
    if not abs(scale) <= MAX_GUIDANCE:
        raise UserError(
            f"--classifier_scale={scale} is not between -{MAX_GUIDANCE:g} and {MAX_GUIDANCE:g}: give one such as 2"
        )


def plan_guidance(workdir: Path, wanted: str, scale: float) -> GuidancePlan:
    """Reads the config of a trained classifier, and checks class and scale.

    Args:
        workdir: workdir of the classifier's training.
        wanted: name of the class to guide towards.
        scale: guidance scale s, at most ``MAX_GUIDANCE`` in absolute value; see ``ClassifierGuidance``.

    Raises:
        UserError: there is no classifier, it has no such class, or the scale is out of range.
    """
    config = read_config(workdir)
    require_sections(config, ("classifier",), workdir, "classifier guidance")
    classifier = build_classifier(read_section(ClassifierConfig, config["classifier"], "classifier"))
    lookup(dict.fromkeys(classifier.classes.names), wanted, "class")
    check_scale(scale)
    return GuidancePlan(workdir, classifier, wanted, scale)


def load_guidance(workdir: Path, wanted: str, scale: float) -> ClassifierGuidance:
    """Loads a trained classifier as guidance towards one of its classes.

    Args:
        workdir: workdir of the classifier's training.
        wanted: name of the class to guide towards.
        scale: guidance scale s, at most ``MAX_GUIDANCE`` in absolute value; see ``ClassifierGuidance``.

    Raises:
        UserError: there is no trained classifier, it has no such class, or the scale is out of range.
    """
    return plan_guidance(workdir, wanted, scale).load()
