"""A classifier of noisy images from its config: trained by ``train_classifier``, and what guidance asks.

config -> Classifier (network, classes, schedule) -> loss of a batch, for training
workdir -> its averaged parameters -> the log-probability of a class, for ``sampling.guidance``
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int
from ml_collections import ConfigDict

from imagen_jax.array_types import Images, PerExample, RandomKey, Scalar
from imagen_jax.cascade.stage import build
from imagen_jax.data.sources.openmoji_groups import GROUPS, group_of
from imagen_jax.diffusion.loss import draw_times
from imagen_jax.diffusion.process import add_noise
from imagen_jax.diffusion.schedules import SCHEDULES, Schedule
from imagen_jax.errors import UserError, lookup
from imagen_jax.models.noise_classifier import NoiseClassifier
from imagen_jax.sampling.guidance import MAX_GUIDANCE, ClassifierGuidance
from imagen_jax.sharding.axes import remove_logical_axes
from imagen_jax.storage.paths import Path
from imagen_jax.training.checkpoints.store import CheckpointStore
from imagen_jax.training.workdir import read_config, require_sections

Params = Any

NO_CLASS = -1
"""The label of an image that is of no class; it is not learned from."""


class Classes(NamedTuple):
    """Classes of the images of a data set.

    Attributes:
        names: of them; a label is a place in it.
        class_of: the class of an image by its key; None where it has none.
    """

    names: tuple[str, ...]
    class_of: Callable[[str], str | None]

    def label_of(self, key: str) -> int:
        """The label of an image by its key."""
        name = self.class_of(key)
        return NO_CLASS if name is None else self.names.index(name)


CLASSES = {"openmoji_groups": Classes(GROUPS, group_of)}
"""What ``classifier.classes`` may say."""


class LabelledImages(NamedTuple):
    """What a classifier learns from.

    Attributes:
        image: clean images.
        label: of each; ``NO_CLASS`` for none.
    """

    image: Images
    label: Int[Array, " batch"]


class Classifier(NamedTuple):
    """A classifier without its parameters.

    Attributes:
        network: the Linen module.
        classes: what it tells apart.
        resolution: height and width of its images.
        schedule: time to log-SNR, from which its training draws.
    """

    network: NoiseClassifier
    classes: Classes
    resolution: int
    schedule: Schedule


def build_classifier(config: ConfigDict) -> Classifier:
    """Builds what ``config.classifier`` describes; see ``configs/openmoji_classifier.py`` for the keys.

    Raises:
        UserError: an unknown key, schedule or kind of classes.
    """
    fields = dict(config.classifier)
    classes = lookup(CLASSES, fields.pop("classes"), "classifier.classes")
    schedule = lookup(SCHEDULES, fields.pop("schedule"), "classifier.schedule")
    resolution = fields.pop("resolution")
    network = build(NoiseClassifier, fields, "classifier", classes=len(classes.names))
    return Classifier(network, classes, resolution, schedule)


def initial_params(classifier: Classifier, key: RandomKey) -> Params:
    """Random parameters."""
    images = jnp.zeros((1, classifier.resolution, classifier.resolution, 3))
    return remove_logical_axes(classifier.network.init(key, images, jnp.zeros((1,)))["params"])


def make_loss(classifier: Classifier) -> Callable[[Params, LabelledImages, RandomKey], Scalar]:
    """Makes ``loss(params, batch, key)``: the cross-entropy at a random time, over the images that have a class."""
    apply: Any = classifier.network.apply

    def loss(params: Params, batch: LabelledImages, key: RandomKey) -> Scalar:
        time_key, noise_key, dropout_key = jax.random.split(key, 3)
        log_snr = classifier.schedule(draw_times(time_key, batch.image.shape[0], stratified=True))
        noisy = add_noise(batch.image, jax.random.normal(noise_key, batch.image.shape), log_snr)
        logits = apply({"params": params}, noisy, log_snr, train=True, rngs={"dropout": dropout_key})
        has_class = batch.label != NO_CLASS
        label = jnp.where(has_class, batch.label, 0)
        of_label = jnp.take_along_axis(jax.nn.log_softmax(logits), label[:, None], axis=1)[:, 0]
        return -jnp.sum(of_label * has_class) / jnp.maximum(jnp.sum(has_class), 1)

    return loss


class GuidancePlan(NamedTuple):
    """Guidance by a classifier of which the config alone is read, and no parameters.

    Attributes:
        workdir: of its training.
        classifier: built from its config.
        wanted: the class to lead towards.
        scale: see ``ClassifierGuidance``.
    """

    workdir: Path
    classifier: Classifier
    wanted: str
    scale: float


def plan_guidance(workdir: Path, wanted: str, scale: float) -> GuidancePlan:
    """Reads the config of a trained classifier, and checks class and scale.

    Args:
        workdir: of its training.
        wanted: the class.
        scale: see ``ClassifierGuidance``.

    Raises:
        UserError: there is no classifier, it knows no such class, or the scale is out of range.
    """
    config = read_config(workdir)
    require_sections(config, ("classifier",), workdir, "classifier guidance")
    classifier = build_classifier(config)
    lookup(dict.fromkeys(classifier.classes.names), wanted, "class")
    if not abs(scale) <= MAX_GUIDANCE:
        raise UserError(f"the classifier's scale is {scale}: give one such as 2, {MAX_GUIDANCE:g} at most")
    return GuidancePlan(workdir, classifier, wanted, scale)


def load_guidance(workdir: Path, wanted: str, scale: float) -> ClassifierGuidance:
    """Loads a trained classifier as guidance towards one of its classes; see ``plan_guidance``.

    Raises:
        UserError: there is no trained classifier, or it knows no such class.
    """
    return load_planned_guidance(plan_guidance(workdir, wanted, scale))


def load_planned_guidance(plan: GuidancePlan) -> ClassifierGuidance:
    """Loads the parameters of a classifier whose config is read and checked.

    Raises:
        UserError: there are none, or they do not fit the config.
    """
    workdir, classifier, wanted, scale = plan
    label = classifier.classes.names.index(wanted)
    shapes = jax.eval_shape(lambda: initial_params(classifier, jax.random.key(0)))
    with CheckpointStore(workdir / "checkpoints") as checkpoints:
        params, step = checkpoints.restore_ema(shapes)
    params = jax.device_get(params)

    apply: Any = classifier.network.apply

    def log_probability(noisy: Images, log_snr: PerExample) -> PerExample:
        logits = apply({"params": params}, noisy, log_snr)
        return jax.nn.log_softmax(logits)[:, label]

    return ClassifierGuidance(log_probability, scale, classifier.resolution, wanted, step)
