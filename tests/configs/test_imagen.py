"""Imagen's configs: what the paper prints, and that every variant of every config builds."""

import pytest

from configs import openmoji, quickstart
from configs.imagen import base_64, recipe, super_res_256, super_res_1024
from imagen_jax.cascade.experiment import read_experiment
from imagen_jax.cascade.sampling_settings import make_settings
from imagen_jax.cascade.stage import abstract_params, build_stage
from imagen_jax.cascade.stage_loss import make_loss
from imagen_jax.forecast.parameter_count import count_parameters, total_of
from imagen_jax.models import EfficientUNet, UNet
from imagen_jax.training.optimizer import make_optimizer

STAGES = {
    "base_64": (base_64, ("2b", "1b", "500m", "300m")),
    "super_res_256": (super_res_256, ("as_printed", "size_matched")),
    "super_res_1024": (super_res_1024, ("as_printed", "size_matched")),
}
VARIANTS = [(module, variant) for module, variants in STAGES.values() for variant in variants] + [
    (openmoji, variant) for variant in ("base", "super_res_256", "super_res_1024")
]

# Appendix F.1 of Saharia et al. 2022, by the names of our fields.
PRINTED_NETWORKS = {
    "base_64": {"channels": 512, "channel_multipliers": (1, 2, 3, 4), "blocks_per_level": 3, "dropout": 0.0,
                "attention_resolutions": (32, 16, 8), "head_channels": 64},
    "super_res_256": {"channels": (128, 256, 512, 1024), "blocks": (2, 4, 8, 8), "strides": (2, 2, 2, 2), "heads": 8,
                      "self_attention": (False, False, False, True), "cross_attention": (False,) * 4, "dropout": 0.0},
    "super_res_1024": {"channels": (128, 256, 512, 1024), "blocks": (2, 4, 8, 8), "strides": (2, 2, 2, 2), "heads": 8,
                       "self_attention": (False,) * 4, "cross_attention": (False, False, False, True), "dropout": 0.0},
}  # fmt: skip
PRINTED_STAGES = {
    "base_64": (64, None, None, "cosine", "adafactor", 1.35),
    "super_res_256": (256, 64, None, "cosine", "adam", 8.0),
    "super_res_1024": (1024, 256, 256, "linear", "adam", 8.0),
}


@pytest.mark.parametrize("name", STAGES)
def test_the_default_is_what_the_paper_prints(name):
    config = STAGES[name][0].get_config()
    network = build_stage(config).network
    assert isinstance(network, UNet if name == "base_64" else EfficientUNet)
    assert {field: getattr(network, field) for field in PRINTED_NETWORKS[name]} == PRINTED_NETWORKS[name]
    stage, optimizer, sampling = config.stage, config.optimizer, config.sampling
    printed = (stage.resolution, stage.low_resolution, stage.crop, stage.schedule, optimizer.name, sampling.guidance)
    assert printed == PRINTED_STAGES[name]
    assert (stage.prediction, config.training.weighting, config.training.time_exponent) == ("eps", "uniform", 1.0)
    assert (config.training.batch_size, config.training.steps, config.training.caption_dropout) == (2048, 2.5e6, 0.1)
    assert (optimizer.learning_rate, optimizer.warm_up_steps, optimizer.decay_steps) == (1e-4, 1e4, 2.5e6)
    assert not config.training.stratified_times and not stage.self_conditioned
    assert (sampling.thresholding, sampling.percentile, sampling.augmentation_level) == ("dynamic", 99.5, 0.0)
    assert (config.text.encoder, config.text.width, config.text.length) == ("t5", 4096, 128)


def test_size_matching_changes_nothing_but_blocks():
    for module in (super_res_256, super_res_1024):
        printed, matched = module.get_config("as_printed"), module.get_config("size_matched")
        assert printed.network.blocks[:3] == matched.network.blocks[:3]
        matched.network.blocks = printed.network.blocks
        assert printed.to_dict() == matched.to_dict()


@pytest.mark.parametrize(("module", "variant"), VARIANTS, ids=lambda value: getattr(value, "__name__", value))
def test_every_variant_has_a_smoke_size_of_the_same_parts(module, variant):
    config, small = module.get_config(variant), module.get_config(f"{variant},smoke")
    assert small.keys() == config.keys()
    for section in ("stage", "training", "optimizer", "sampling", "network", "data", "mesh"):
        assert small[section].keys() == config[section].keys()
    for made in (config, small):
        stage = build_stage(made)
        make_loss(stage, read_experiment(made).training)
        make_optimizer(**made.optimizer.to_dict())
        make_settings(made.sampling.to_dict())
        assert made.data.resolution >= made.stage.resolution
    assert small.network.dtype == "float32" and small.text.encoder == "minilm"
    assert any(small.network.get("self_attention", ())) == any(config.network.get("self_attention", ()))
    assert total_of(count_parameters(abstract_params(stage))) < 1e6


@pytest.mark.parametrize("module", [base_64, super_res_256, super_res_1024, openmoji])
@pytest.mark.parametrize("variant", ["3b", "", "2b,smok"])
def test_an_unknown_variant_is_named_with_those_there_are(module, variant):
    with pytest.raises(ValueError, match=r"unknown variant .*; known: \w+, .*,smoke"):
        module.get_config(variant)


def test_imagen_and_the_quickstart_have_the_same_keys():
    imagen, quick = recipe.common(), quickstart.common()
    assert imagen.keys() == quick.keys()
    for section in set(imagen) - {"seed", "optimizer"}:
        assert imagen[section].keys() == quick[section].keys(), section
