"""A stage built from its config: what training and sampling make of it."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import quickstart
from imagen_jax.array_types import LowResolution, Text
from imagen_jax.cascade.experiment import read_experiment
from imagen_jax.cascade.stage import (
    Batch,
    abstract_batch,
    abstract_params,
    build_stage,
    initial_params,
    make_denoiser,
    with_augmented,
)
from imagen_jax.cascade.stage_loss import make_loss
from imagen_jax.cascade.text_encoder import load_encoder
from imagen_jax.config.sections import TextConfig
from imagen_jax.errors import UserError
from tests.drawn_params import draw_params
from tests.reference.t5_folders import write_t5_folder
from tests.small_networks import ATTENDING


def make_batch(stage, crop=None, batch_size=8):
    shapes = abstract_batch(stage, batch_size, crop)
    keys = iter(jax.random.split(jax.random.key(1), 8))

    def fill(shape):
        if shape.dtype == jnp.bool_:
            return jnp.ones(shape.shape, bool)
        return jax.random.uniform(next(keys), shape.shape, minval=-1, maxval=1)

    return jax.tree.map(fill, shapes)


@pytest.fixture(scope="module")
def super_resolution():
    config = quickstart.get_config("super_resolution,smoke")
    config.network.update(ATTENDING)
    config.stage.prediction = "v"
    stage = build_stage(config)
    return config, stage, draw_params(abstract_params(stage))


def test_the_super_resolution_network_reads_the_noised_image_not_the_clean_one(super_resolution, monkeypatch):
    """Others noised the low-resolution image under one key and fed the network the clean one under another."""
    config, stage, params = super_resolution
    batch = make_batch(stage)
    seen = []
    module = type(stage.network)
    original = module.__call__

    def spy(self, noisy, log_snr, conditions, **named):
        report = lambda image, level: seen.append((np.asarray(image), np.asarray(level)))  # noqa: E731
        jax.debug.callback(report, *conditions.low_resolution)
        return original(self, noisy, log_snr, conditions, **named)

    monkeypatch.setattr(module, "__call__", spy)
    jax.block_until_ready(jax.jit(make_loss(stage, read_experiment(config).training))(params, batch, jax.random.key(3)))
    jax.effects_barrier()
    (image, log_snr), *_ = seen
    added = image - np.sqrt(1 / (1 + np.exp(-log_snr)))[:, None, None, None] * np.asarray(
        batch.conditions.low_resolution.image
    )
    spread = added.std(axis=(1, 2, 3))
    assert len(np.unique(log_snr)) == len(log_snr), "a level for each example"
    np.testing.assert_allclose(spread, np.sqrt(1 / (1 + np.exp(log_snr))), rtol=0.25)


@pytest.mark.thorough
def test_the_loss_depends_on_everything_in_the_batch(super_resolution):
    config, stage, params = super_resolution
    batch = make_batch(stage)
    loss = jax.jit(make_loss(stage, read_experiment(config).training))
    before = float(loss(params, batch, jax.random.key(3)))
    assert float(loss(params, batch, jax.random.key(3))) == before
    text, small = batch.conditions.text, batch.conditions.low_resolution.image
    changed = [
        batch._replace(clean=-batch.clean),
        batch._replace(conditions=batch.conditions._replace(low_resolution=LowResolution(-small))),
        batch._replace(conditions=batch.conditions._replace(text=Text(-text.embeddings, text.mask))),
    ]
    assert all(abs(float(loss(params, other, jax.random.key(3))) - before) > 1e-6 for other in changed)
    assert float(loss(params, batch, jax.random.key(4))) != before


def test_a_fresh_network_denoises_to_what_its_silence_means(super_resolution):
    """A new network outputs zero; as a velocity that means x = α z."""
    _, stage, _ = super_resolution
    params = jax.jit(partial(initial_params, stage))(jax.random.key(0))
    batch = make_batch(stage, batch_size=2)
    log_snr = jnp.asarray([0.0, 2.0])
    conditions = with_augmented(stage, batch.conditions, lambda small: LowResolution(small, log_snr))
    clean = jax.jit(make_denoiser(stage, params, conditions))(batch.clean, log_snr)
    alpha = np.sqrt(1 / (1 + np.exp(-np.asarray(log_snr))))[:, None, None, None]
    np.testing.assert_allclose(clean, alpha * np.asarray(batch.clean), atol=1e-6)


def test_shapes_are_known_without_computing(super_resolution):
    _, stage, params = super_resolution
    shapes = abstract_params(stage)
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, shapes)
    cropped = abstract_batch(stage, 4, crop=8)
    assert isinstance(cropped, Batch)
    assert cropped.clean.shape == (4, 8, 8, 3)
    assert cropped.conditions.low_resolution.image.shape == (4, 4, 4, 3)


@pytest.mark.parametrize(
    ("key", "value", "facts"),
    [
        ("network.chanels", (8,), r"network\.chanels.*'channels'"),
        ("network.name", "unett", "network .*'unet'"),
        ("stage.schedule", "cosin", "stage.schedule .*'cosine'"),
        ("stage.prediction", "epsilon", "stage.prediction .*'eps'"),
        ("network.dtype", "float8", "network.dtype .*'float32'"),
    ],
)
def test_a_config_mistake_names_the_key_and_the_nearest(key, value, facts):
    config = quickstart.get_config("base,smoke")
    section, name = key.split(".")
    with config.unlocked():
        config[section][name] = value
    with pytest.raises(UserError, match=facts):
        build_stage(config)


@pytest.mark.thorough
def test_self_conditioned_stages_train_and_denoise():
    config = quickstart.get_config("base,smoke")
    config.network.update(ATTENDING)
    config.stage.self_conditioned = True
    stage = build_stage(config)
    params = draw_params(abstract_params(stage))
    batch = make_batch(stage, batch_size=2)
    loss = jax.jit(make_loss(stage, read_experiment(config).training))
    assert np.isfinite(float(loss(params, batch, jax.random.key(1))))
    clean = jax.jit(make_denoiser(stage, params, batch.conditions))(batch.clean, jnp.zeros((2,)))
    assert clean.shape == batch.clean.shape


def test_text_encoders_come_with_their_options_and_their_width_is_checked(tmp_path):
    folder = str(write_t5_folder(tmp_path))
    text = TextConfig(encoder="t5", options={"folder": folder, "max_tokens": 16}, width=24, length=12)
    encoder = load_encoder(text)
    assert (encoder.width, encoder.max_tokens) == (24, 16)
    with pytest.raises(UserError, match=r"config.text.width .*384.* --config.text.width=24"):
        load_encoder(dataclasses.replace(text, width=384))
