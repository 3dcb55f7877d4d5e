"""A CLIP of noisy images guides a stage towards a caption; one of clean images is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import emoji_clip
from imagen_jax.cascade.cascade import load_cascade
from imagen_jax.cascade.clip_guidance import plan_clip_guidance
from imagen_jax.clip.folder import is_clip_folder
from imagen_jax.errors import UserError
from imagen_jax.tasks.clip import clip_task
from imagen_jax.tasks.clip_loss import embed_pairs
from imagen_jax.train import train
from tests.end_to_end.smoke_runs import draw_own_images
from tests.small_cascades import write_cascade


@pytest.fixture(scope="module")
def make_config(tmp_path_factory):
    images, data = draw_own_images(tmp_path_factory.mktemp("images")), tmp_path_factory.mktemp("data")

    def make(noisy):
        config = emoji_clip.get_config("scratch,smoke")
        config.data.update({"source": "folder", "options": {"folder": str(images)}, "data_dir": str(data)})
        config.image_tower.update({"resolution": 8, "patch": 4})
        config.training.update({"steps": 1, "evaluate_every": 0})
        if noisy:
            config.clip.noise_schedule = "cosine"
            config.image_tower.noise_conditioned = True
        return config

    return make


@pytest.fixture(scope="module")
def trained(make_config, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("clip")
    train(make_config(True), workdir)
    return workdir


@pytest.mark.thorough
def test_the_log_probability_is_the_logit_of_the_caption(trained):
    assert is_clip_folder(trained)
    plan = plan_clip_guidance(trained, "square number 3", 2.0)
    guidance = plan.load()
    assert guidance.resolution == 8 and guidance.wanted == "square number 3"
    noisy = jnp.asarray(np.random.default_rng(0).normal(size=(3, 8, 8, 3)), jnp.float32)
    levels = jnp.array([-2.0, 0.0, 4.0])
    logits = guidance.log_probability(noisy, levels)
    text = plan.clip.encode_texts(["square number 3"])[0]
    tower = plan.clip.description.make_image_tower()
    mean, deviation = (np.array(values) for values in (plan.clip.description.mean, plan.clip.description.deviation))
    normalised = ((np.asarray(noisy) + 1) / 2 - mean) / deviation
    image = tower.apply({"params": plan.clip.parameters["image"]}, jnp.asarray(normalised, jnp.float32), log_snr=levels)
    expected = plan.clip.logit_scale * (image @ text) / np.linalg.norm(image, axis=1) / np.linalg.norm(text)
    np.testing.assert_allclose(logits, expected, rtol=1e-4)
    gradient = jax.grad(lambda noisy: guidance.log_probability(noisy, levels).sum())(noisy)
    assert np.isfinite(gradient).all() and np.abs(gradient).max() > 0


@pytest.mark.thorough
def test_it_changes_the_images_of_a_cascade(trained, tmp_path):
    base, _ = write_cascade(tmp_path)
    plain = load_cascade([base]).sample(["a bar"], seed=3)[0]
    guidance = plan_clip_guidance(trained, "bar number 2", 50.0).load()
    guided = load_cascade([base], classifier=guidance).sample(["a bar"], seed=3)[0]
    assert np.asarray(plain).shape == np.asarray(guided).shape and (np.asarray(plain) != np.asarray(guided)).any()


@pytest.mark.thorough
def test_training_noises_the_images_and_measuring_does_not(make_config):
    task = clip_task(make_config(True))
    clip = make_config(True).clip
    from imagen_jax.cascade.experiment import read_clip_experiment
    from imagen_jax.tasks.clip import build_pair

    experiment = read_clip_experiment(make_config(True))
    pair = build_pair(experiment)
    params = task.initial_params(jax.random.key(0))
    batch = jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), task.batch)
    clean = embed_pairs(pair, experiment.clip, params, batch)
    noisy = [embed_pairs(pair, experiment.clip, params, batch, jax.random.key(seed)) for seed in (1, 2)]
    assert clip.noise_schedule == "cosine"
    # All images of the batch are the same, until each has its own noise.
    assert np.ptp(np.asarray(clean.images), axis=0).max() < 1e-6
    assert all(np.ptp(np.asarray(one.images), axis=0).max() > 1e-3 for one in noisy)
    assert (np.asarray(noisy[0].images) != np.asarray(noisy[1].images)).any()


@pytest.mark.thorough
def test_contradictions_and_clips_of_clean_images_are_refused(make_config, trained, tmp_path):
    config = make_config(False)
    config.clip.noise_schedule = "cosine"
    with pytest.raises(UserError, match="noise_conditioned"):
        clip_task(config)
    with pytest.raises(UserError, match="classifier_scale"):
        plan_clip_guidance(trained, "a bar", 1e9)
    clean = tmp_path / "clean"
    train(make_config(False), clean)
    with pytest.raises(UserError, match="clean images"):
        plan_clip_guidance(clean, "a bar", 1.0)
