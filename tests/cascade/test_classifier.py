"""A classifier of noisy images: trains, resumes after an interruption, and guides a cascade towards its class."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import openmoji_classifier
from imagen_jax.cascade.cascade import load_cascade
from imagen_jax.cascade.classifier import (
    LabelledImages,
    build_classifier,
    initial_params,
    load_guidance,
    make_loss,
)
from imagen_jax.cascade.experiment import read_classifier_experiment
from imagen_jax.cascade.image_files import to_pixels
from imagen_jax.data.classes import CLASSES, NO_CLASS
from imagen_jax.data.sources.openmoji_groups import GROUPS, SORTED_RUNS, group_of
from imagen_jax.errors import UserError
from imagen_jax.tasks import classifier as task
from imagen_jax.train import train_classifier
from tests.drawn_params import draw_params
from tests.few_drawings import few_drawings
from tests.small_cascades import write_cascade

FOOD = "Food & Drink"


@pytest.mark.parametrize(
    ("key", "group"),
    [
        ("1F600", "Smileys & Emotion"),  # grinning face
        ("1F469-200D-1F680", "People & Body"),  # woman astronaut
        ("1F43C", "Animals & Nature"),  # panda
        ("1F34E", "Food & Drink"),  # red apple
        ("1F680", "Travel & Places"),  # rocket
        ("26BD", "Activities"),  # football
        ("1F4A1", "Objects"),  # light bulb
        ("0031-FE0F-20E3", "Symbols"),  # keycap 1
        ("1F1E6-1F1FA", "Flags"),  # Australia
        ("1F3FB", None),  # a skin tone
        ("E000", None),  # of no group
        ("0020", None),  # before the first
    ],
)
def test_groups_of_drawings(key, group):
    assert group_of(key) == group


def test_runs_of_groups_do_not_overlap():
    for (first, last, _), (following, _, _) in zip(SORTED_RUNS, SORTED_RUNS[1:], strict=False):
        assert first <= last < following


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    with few_drawings():
        yield tmp_path_factory.mktemp("data")


def smoke(data_dir):
    config = openmoji_classifier.get_config(",smoke")
    config.data.data_dir = str(data_dir)
    return config


@pytest.fixture(scope="module")
def trained(tmp_path_factory, data_dir):
    workdir = tmp_path_factory.mktemp("classifier")
    return workdir, train_classifier(smoke(data_dir), workdir)


@pytest.mark.thorough
def test_the_report_holds_shares_of_the_images_that_were_kept_from_training(trained):
    workdir, accuracy = trained
    assert json.loads((workdir / "accuracy.json").read_text()) == accuracy
    assert 5 < accuracy["images"] < 15 and 1 / 9 < accuracy["chance"] < 0.5 and len(accuracy["classes"]) == 9
    assert all(0 <= share <= 1 for share in accuracy["told_right"].values())


@pytest.mark.thorough
def test_an_interrupted_training_resumes_to_the_same_end(trained, data_dir, tmp_path):
    config = smoke(data_dir)
    config.training.steps = 2
    train_classifier(config, tmp_path)
    config.training.steps = 4
    assert train_classifier(config, tmp_path) == trained[1]
    losses = [
        [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (tmp_path, trained[0])
    ]
    assert losses[0] == losses[1] and len(losses[0]) == 4


@pytest.mark.thorough
def test_steps_without_finite_numbers_are_left_out_and_too_many_end_it(data_dir, tmp_path, monkeypatch):
    config = smoke(data_dir)
    config.training.max_consecutive_nonfinite = 3
    fed = []

    make_feed = task.make_feed

    def spoiling(classifier, batch):
        feed = make_feed(classifier, batch)

        def spoil(examples):
            fed.append(examples)
            labelled = feed(examples)
            return labelled if len(fed) == 1 else labelled._replace(image=labelled.image * jnp.nan)

        return spoil

    monkeypatch.setattr(task, "make_feed", spoiling)
    with pytest.raises(UserError, match=r"steps 2 to 4 .*incidents/\d+\.json"):
        train_classifier(config, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["skipped"] for line in lines] == [0, 1, 2]


@pytest.mark.thorough
def test_images_without_a_class_are_not_learned_from():
    classifier = build_classifier(read_classifier_experiment(openmoji_classifier.get_config(",smoke")).classifier)
    images = jax.random.uniform(jax.random.key(0), (4, 8, 8, 3), minval=-1.0)
    params = draw_params(jax.eval_shape(lambda: initial_params(classifier, jax.random.key(1))))
    loss = make_loss(classifier)
    labels = jax.numpy.array([3, NO_CLASS, 1, NO_CLASS])

    @jax.jit
    @jax.value_and_grad
    def loss_and_gradient(image, labels):
        return loss(params, LabelledImages(image, labels), jax.random.key(2))

    _, gradient = loss_and_gradient(images, labels)
    moved = np.abs(np.asarray(gradient)).max((1, 2, 3)) > 0
    np.testing.assert_array_equal(moved, [True, False, True, False])
    of_nothing, _ = loss_and_gradient(images, jax.numpy.full(4, NO_CLASS))
    assert float(of_nothing) == 0.0


def test_the_labels_are_the_groups():
    classes = CLASSES["openmoji_groups"]
    assert classes.names == GROUPS
    assert classes.label_of("1F34E") == GROUPS.index(FOOD) and classes.label_of("1F3FB") == NO_CLASS


@pytest.mark.thorough
def test_it_guides_the_stage_of_its_size_and_is_described(trained, tmp_path):
    workdirs = write_cascade(tmp_path)
    plain = {"guidance": 1.0}
    free = load_cascade(workdirs[:1], plain, batch_size=1)
    towards = load_guidance(trained[0], FOOD, 50.0)
    both = load_cascade(workdirs, batch_size=1, classifier=towards)
    assert [stage.settings.classifier is not None for stage in both.stages] == [True, False]
    guided = load_cascade(workdirs[:1], plain, batch_size=1, classifier=towards)
    assert all(fact in guided.describe()["stage_0"] for fact in ("classifier", "50", FOOD, "4 steps"))
    (small,), (small_guided,) = next(free.draw(["panda"])), next(guided.draw(["panda"]))
    assert np.abs(to_pixels(small).astype(int) - to_pixels(small_guided)).mean() > 1
    log_snr = jax.numpy.full((1,), 2.0)
    of_free, of_guided = (towards.log_probability(jax.numpy.asarray(one), log_snr)[0] for one in (small, small_guided))
    assert of_guided > of_free


@pytest.mark.thorough
def test_what_does_not_fit_is_an_error(trained, tmp_path):
    with pytest.raises(UserError, match=r"'Food'.*'Food & Drink'"):
        load_guidance(trained[0], "Food", 1.0)
    with pytest.raises(UserError, match="--classifier_scale=nan"):
        load_guidance(trained[0], FOOD, float("nan"))
    workdirs = write_cascade(tmp_path)
    with pytest.raises(UserError, match="classifier"):
        load_guidance(workdirs[0], FOOD, 1.0)
    other = load_guidance(trained[0], FOOD, 1.0)._replace(resolution=64)
    with pytest.raises(UserError, match=r"64 px.* 8, 16 px"):
        load_cascade(workdirs, classifier=other)
