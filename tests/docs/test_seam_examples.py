"""The worked examples of networks, losses, conditions and shapes: each trains and samples without a change here."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import imagen_jax
from docs.examples import huber_loss, told_a_vector
from docs.examples.class_conditional import with_classes
from docs.examples.dit import DiT
from docs.examples.flow_matching import with_flow_matching
from docs.examples.grey import with_grey_images
from docs.examples.vectors import draw, fit
from imagen_jax.array_types import Text
from imagen_jax.cascade.cascade import load_cascade
from imagen_jax.cascade.experiment import read_experiment
from imagen_jax.cascade.stage import Batch, build_stage
from imagen_jax.cascade.stage_loss import make_losses
from imagen_jax.data.sources.openmoji_groups import GROUPS
from imagen_jax.diffusion.conditions import Conditions
from imagen_jax.errors import UserError
from imagen_jax.forecast.stage_programs import training_program
from imagen_jax.train import train
from imagen_jax.training.monitoring.metrics import read_metrics
from tests.few_drawings import few_drawings
from tests.small_networks import ONE_LEVEL

pytestmark = pytest.mark.slow(seconds=75)

OWN = {"name": "docs.examples.dit:DiT", "patch": 4, "width": 16, "depth": 1, "heads": 2}


def smoke(data_dir, **stage):
    """A base of one level for OpenMoji's smallest images, which trains two steps."""
    config = imagen_jax.load_config("quickstart:base,smoke")
    config.data.data_dir = str(data_dir)
    config.network.update(ONE_LEVEL)
    config.stage.update(stage)
    config.training.update({"steps": 2, "checkpoint_every": 2, "preview_every": 2, "log_every": 1})
    return config


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    with few_drawings():
        yield tmp_path_factory.mktemp("data")


def with_own_network(config):
    with config.unlocked():
        config.network = OWN
    return config


@pytest.mark.thorough
def test_a_transformer_in_plain_flax_trains_and_samples(data_dir, tmp_path):
    result = train(with_own_network(smoke(data_dir)), tmp_path, network=DiT)
    assert result.step == 2 and np.isfinite([line["loss"] for line in result.metrics]).all()
    with pytest.raises(UserError, match=r"docs\.examples\.dit:DiT.*--network"):
        load_cascade(tmp_path)
    cascade = load_cascade(tmp_path, network=DiT)
    assert cascade.sample("panda", steps=2)[0].size == (8, 8)


@pytest.mark.thorough
def test_plain_kernels_are_sharded_and_train_as_on_one_device(data_dir, tmp_path, caplog):
    """On a mesh of 2 × 4: the losses are those of one device."""
    losses = []
    for name, mesh in {"one": {"data": 8}, "many": {"data": 1, "fsdp": 2, "tensor": 4}}.items():
        config = with_own_network(smoke(data_dir))
        config.network.width = 128
        config.mesh.update(mesh)
        config.training.batch_size = 8
        config.training.preview_every = 0
        caplog.clear()
        train(config, tmp_path / name, network=DiT)
        warned = "name no axes" in caplog.text
        assert warned == (name == "many")
        losses.append([line["loss"] for line in read_metrics(tmp_path / name)])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)


@pytest.mark.thorough
def test_flow_matching_is_a_schedule_and_a_prediction(data_dir, tmp_path):
    result = train(with_flow_matching(smoke(data_dir)), tmp_path)
    assert result.step == 2
    assert load_cascade(tmp_path).sample("panda", steps=2)[0].size == (8, 8)


EXAMPLES = {
    "flow matching": with_flow_matching,
    "classes": with_classes,
    "grey": with_grey_images,
    "a vector": lambda config: config.stage.update({"image_vector": told_a_vector.WIDTH}) or config,
}


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_step_of_each_other_example_is_traced(example, data_dir):
    """They train and sample with ``--thorough``."""
    config = EXAMPLES[example](smoke(data_dir))
    program = training_program(build_stage(config), read_experiment(config).training, batch_size=2)
    loss, gradient = jax.eval_shape(program.function, *program.arguments)
    assert loss.shape == () and jax.tree.map(jnp.shape, gradient) == jax.tree.map(jnp.shape, program.arguments[0])


@pytest.mark.thorough
def test_a_stage_without_text_is_told_its_class(data_dir, tmp_path):
    result = train(with_classes(smoke(data_dir)), tmp_path)
    assert result.step == 2 and len(result.previews) == 1
    cascade = load_cascade(tmp_path)
    assert cascade.encoder is None
    first, second = cascade.sample([GROUPS[0], GROUPS[3]], steps=2, seed=1)
    assert np.asarray(first).shape == np.asarray(second).shape == (8, 8, 3)
    with pytest.raises(UserError, match=r"class.*'Food'.*'Food & Drink'"):
        cascade.sample("Food")


@pytest.mark.thorough
def test_a_stage_of_grey_images_trains_and_samples_grey(data_dir, tmp_path):
    train(with_grey_images(smoke(data_dir)), tmp_path)
    pixels = np.asarray(load_cascade(tmp_path).sample("panda", steps=2)[0])
    assert pixels.shape == (8, 8, 3) and (pixels == pixels[..., :1]).all()


def test_channels_that_do_not_fit_are_named(data_dir, tmp_path):
    with pytest.raises(UserError, match=r"channels=2.*RGB"):
        train(smoke(data_dir, channels=2), tmp_path)
    config = smoke(data_dir, channels=1)
    with config.unlocked():
        config.network.out_channels = 4
    with pytest.raises(UserError, match=r"1 channels.*output of 4"):
        train(config, tmp_path)
    config.network.input_gates = False
    with pytest.raises(UserError, match=r"\(1, 8, 8, 4\).*\(1, 8, 8, 1\)"):
        train(config, tmp_path)


@pytest.mark.thorough
def test_a_loss_of_ones_own_is_trained(data_dir, tmp_path):
    ours = train(smoke(data_dir), tmp_path / "huber", loss=huber_loss.make_huber_losses)
    usual = train(smoke(data_dir), tmp_path / "squared")
    assert ours.step == 2 and abs(ours.metrics[0]["loss"] / usual.metrics[0]["loss"] - 1) > 0.05


def test_the_huber_loss_is_the_squared_error_near_and_the_absolute_error_far():
    """With c small: |d| - c; the mean of both over a batch is below the squared error where that is above 1."""
    config = imagen_jax.load_config("quickstart:base,smoke")
    config.network.update(ONE_LEVEL)
    config.training.update({"caption_dropout": 0.0, "stratified_times": False, "time_exponent": 1.0})
    experiment = read_experiment(config)
    stage = dataclasses.replace(build_stage(experiment), network=Silent())
    text = Text(jnp.zeros((64, 12, 384), jnp.bfloat16), jnp.ones((64, 12), bool))
    batch = Batch(jnp.full((64, 8, 8, 3), 0.8), Conditions(text=text))
    key = jax.random.key(0)
    huber, _ = huber_loss.make_huber_losses(stage, experiment.training)({}, batch, key)
    squared, _ = make_losses(stage, experiment.training)({}, batch, key)
    np.testing.assert_allclose(huber, np.hypot(0.8, huber_loss.C) - huber_loss.C, rtol=1e-5)
    np.testing.assert_allclose(squared, 0.64, rtol=1e-5)


class Silent:
    """A network that predicts zeros."""

    def apply(self, variables, noisy, log_snr, conditions, *, estimate=None, train=False, rngs=None):
        return jnp.zeros_like(noisy)

    def __call__(self, noisy, log_snr, conditions, *, estimate=None, train=False):
        raise NotImplementedError


@pytest.mark.thorough
@pytest.mark.parametrize("width", [2, 256])
def test_vectors_are_learned(width):
    """Two clusters at ±1 in all dimensions: the samples are near one of them."""
    generator = np.random.default_rng(0)
    sides = generator.choice([-1.0, 1.0], (2000, 1))
    vectors = jnp.asarray(sides + 0.1 * generator.normal(size=(2000, width)), jnp.float32)
    drawn = np.asarray(draw(fit(vectors, 600, batch=128), 200, width))
    assert drawn.shape == (200, width)
    means = drawn.mean(1)
    assert np.abs(np.abs(means) - 1).mean() < 0.15 and 0.3 < (means > 0).mean() < 0.7


@pytest.mark.thorough
def test_a_decoder_is_told_a_vector_and_follows_it(data_dir, tmp_path):
    config = smoke(data_dir)
    result = told_a_vector.train_decoder(config, tmp_path)
    assert result.step == 2
    dark, light = (np.full((2, told_a_vector.WIDTH), value, np.float32) for value in (-1.0, 1.0))
    images = [
        np.asarray(told_a_vector.draw(tmp_path, ["panda", "panda"], colours, guidance=2.0)) for colours in (dark, light)
    ]
    assert images[0].shape == (2, 8, 8, 3) and np.abs(images[0] - images[1]).max() > 0


def test_a_vector_that_is_missing_is_named(data_dir, tmp_path):
    with pytest.raises(UserError, match=r"image_vector=12.*vectors="):
        train(smoke(data_dir, image_vector=12), tmp_path)


@pytest.mark.thorough
def test_a_vector_of_another_width_or_too_many_is_named(data_dir, tmp_path):
    config = smoke(data_dir, image_vector=12)
    with pytest.raises(UserError, match=r"\(8, 3\).*\(8, 12\)"):
        train(config, tmp_path, vectors={"image_vector": lambda examples: np.zeros((8, 3))})
    with pytest.raises(UserError, match="text_vector"):
        train(config, tmp_path, vectors={"text_vector": lambda examples: np.zeros((8, 12))})
