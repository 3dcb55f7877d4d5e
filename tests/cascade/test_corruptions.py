"""Stages whose low-resolution images are blurred or degraded, and whose networks learn their variance."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.unclip import upsampler_256, upsampler_1024
from imagen_jax.array_types import LowResolution
from imagen_jax.cascade import stage_loss
from imagen_jax.cascade.experiment import read_experiment
from imagen_jax.cascade.plans import StageFacts
from imagen_jax.cascade.stage import abstract_batch, abstract_params, apply_network, build_stage, first_inputs
from imagen_jax.cascade.stage_inputs import keys_of_prompts, make_inputs
from imagen_jax.cascade.stage_loss import make_losses
from imagen_jax.cascade.stage_sampler import make_draw_stage
from imagen_jax.diffusion.augmentation import blur
from imagen_jax.diffusion.conditions import Conditions
from imagen_jax.errors import UserError
from imagen_jax.tasks.stage_data import make_transform
from tests.drawn_params import draw_params


def smoke(module=upsampler_256, **stage):
    config = module.get_config("as_printed,smoke")
    config.network.channel_multipliers = (1,)
    config.stage.update(stage)
    return config


def batch_of(stage, batch_size=4):
    shapes = abstract_batch(stage, batch_size)
    keys = iter(jax.random.split(jax.random.key(1), 8))
    return jax.tree.map(lambda one: jax.random.uniform(next(keys), one.shape, minval=-1, maxval=1), shapes)


@pytest.mark.thorough
def test_a_network_that_is_told_no_level_trains_and_samples(monkeypatch):
    config = smoke(blur_probability=1.0)
    stage = build_stage(config)
    told = first_inputs(stage).conditions
    assert told.given == ("low_resolution",) and told.low_resolution.log_snr is None
    params = draw_params(abstract_params(stage))
    assert set(params["conditioning"]) == {"time"}
    batch, seen = batch_of(stage), []

    def spy(stage, params, conditions, *others):
        seen.append(conditions.low_resolution)
        return apply_network(stage, params, conditions, *others)

    monkeypatch.setattr(stage_loss, "apply_network", spy)
    losses = make_losses(stage, read_experiment(config).training)
    small = batch.conditions.low_resolution.image

    @jax.jit
    def run(params, key):
        (gradient, (seen_image, levels)) = jax.grad(
            lambda params: (losses(params, batch, key)[0].mean(), seen.pop()), has_aux=True
        )(params)
        assert levels is None
        return gradient, seen_image

    gradient, image = run(params, jax.random.key(2))
    np.testing.assert_allclose(image, blur(small), atol=1e-6)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))

    keys = keys_of_prompts(0, [""] * 4, range(4))
    draw = make_draw_stage(stage)
    sampled = draw(params, make_inputs(Conditions(), keys).with_low_resolution(small))
    assert sampled.shape == (4, 16, 16, 3) and np.isfinite(sampled).all()
    other = draw(params, make_inputs(Conditions(), keys).with_low_resolution(-small))
    assert np.abs(np.asarray(sampled - other)).max() > 1e-3


def test_what_the_network_is_told_must_be_what_the_stage_says():
    image = jnp.zeros((1, 8, 8, 3))
    for corruption, level in (("noise", None), ("blur", jnp.zeros(1))):
        stage = build_stage(smoke(corruption=corruption))
        with pytest.raises(ValueError, match="noise level"):
            apply_network(stage, {}, Conditions(low_resolution=LowResolution(image, level)))


def test_only_the_second_upsampler_degrades_on_the_host():
    for module, degrades in ((upsampler_256, False), (upsampler_1024, True)):
        config = read_experiment(smoke(module))
        transform = make_transform(config.data, config.stage.crop, build_stage(config))
        assert (transform.degrade is not None) == degrades
    assert not StageFacts({"guidance": 1.0}, build_stage(smoke()).takes_noise_level, False).takes_noise_level
    assert build_stage(smoke(corruption="noise")).takes_noise_level


@pytest.mark.parametrize(
    ("stage", "fact"),
    [
        ({"corruption": "blurr"}, "'blur'"),
        ({"blur_probability": 1.5}, "blur_probability"),
        ({"low_resolution": None}, "low_resolution"),
        ({"enlarge_before_noise": "corners"}, "enlarge_before_noise"),
    ],
)
def test_a_corruption_that_does_not_fit_is_a_sentence(stage, fact):
    config = smoke()
    with config.unlocked():
        config.stage.update(stage)
    with pytest.raises(UserError, match=fact):
        build_stage(config)


def deepfloyd(**stage):
    """A config like that of an imported DeepFloyd IF, which learns its variance by default."""
    config = smoke().to_dict()
    network = {"name": "deepfloyd_unet", "channels": (8,), "blocks": (1,), "attention": ("none",),
               "middle_attention": "none", "text_channels": 8, "head_channels": 4, "text_heads": 2}  # fmt: skip
    config |= {"network": network, "text": config["text"] | {"width": 8, "length": 3}}
    config["stage"] |= {"low_resolution": None, "corruption": "noise", "crop": None, "resolution": 8, "text": True,
                        "noise_conditioning": "timestep", **stage}  # fmt: skip
    return read_experiment(config)


@pytest.mark.thorough
def test_an_imported_network_trains_its_variance():
    config = deepfloyd()
    stage = build_stage(config)
    assert stage.learns_variance
    params = draw_params(abstract_params(stage))
    shapes = abstract_batch(stage, 4)
    batch = jax.tree.map(lambda one: jnp.full(one.shape, 0.3, one.dtype), shapes)
    losses = make_losses(stage, config.training)

    @jax.jit
    def step(params, key):
        loss, gradient = jax.value_and_grad(lambda params: losses(params, batch, key)[0].mean())(params)
        return loss, gradient, jax.tree.map(lambda one, slope: one - 1e-3 * slope, params, gradient)

    loss, gradient, later = step(params, jax.random.key(0))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((gradient, later)))
    of_channels = np.abs(np.asarray(gradient["conv_out"]["bias"]))
    assert of_channels.shape == (6,) and (of_channels > 0).all()
    assert float(step(later, jax.random.key(0))[0]) < float(loss)


def test_a_variance_that_can_not_be_learned_is_refused():
    config = deepfloyd(self_conditioned=True)
    with pytest.raises(UserError, match="self_conditioned"):
        make_losses(build_stage(config), config.training)
