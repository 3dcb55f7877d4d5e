"""unCLIP's upsamplers: what Table 3 prints, and that both sizes build."""

import pytest

from configs.unclip import upsampler_256, upsampler_1024
from imagen_jax.cascade.experiment import read_experiment
from imagen_jax.cascade.stage import abstract_params, build_stage
from imagen_jax.cascade.stage_loss import make_loss
from imagen_jax.forecast.parameter_count import count_parameters, total_of
from imagen_jax.models import UNet
from imagen_jax.sampling.spacings import steps_in_sections, steps_with_both_ends
from imagen_jax.training.optimizer import make_optimizer

MODULES = (upsampler_256, upsampler_1024)

# Ramesh et al. 2022, Table 3: width, multiples, depth, dropout; resolutions and crop; schedule; batch, rate; steps.
PRINTED = {
    upsampler_256: ((320, (1, 2, 3, 4), 3, 0.1), (64, 256, 64), "discrete_cosine", (1024, 1.2e-4), 27, 700e6),
    upsampler_1024: ((192, (1, 1, 2, 2, 4, 4), 2, 0.0), (256, 1024, 256), "linear", (512, 1.0e-4), 15, 300e6),
}


@pytest.mark.parametrize("module", MODULES)
def test_the_default_is_what_the_paper_prints(module):
    config = module.get_config()
    stage = build_stage(config)
    network = stage.network
    assert isinstance(network, UNet)
    sizes = (network.channels, network.channel_multipliers, network.blocks_per_level, network.dropout)
    images = (config.stage.low_resolution, config.stage.resolution, config.stage.crop)
    training = (config.training.batch_size, config.optimizer.learning_rate)
    printed = PRINTED[module]
    assert (sizes, images, config.stage.schedule, training, config.sampling.steps) == printed[:-1]
    assert network.attention_resolutions == () and not network.middle_attention
    assert (config.training.steps, config.training.ema_decay) == (1e6, 0.9999)
    optimizer = config.optimizer
    assert (optimizer.name, optimizer.b1, optimizer.b2, optimizer.epsilon) == ("adam", 0.9, 0.999, 1e-8)
    assert (config.sampling.sampler, config.sampling.eta, config.sampling.guidance) == ("ddim", 0.0, 1.0)
    assert not stage.text_length and not stage.takes_noise_level and not stage.learns_variance
    paths = {path for path in abstract_params(stage) if "attention" in path}
    assert not paths
    # Both round to the printed number, which has one digit.
    assert total_of(count_parameters(abstract_params(stage))) == pytest.approx(printed[-1], rel=0.065)


def test_the_steps_of_sampling_are_said():
    first, second = (module.get_config().sampling for module in MODULES)
    assert (first.spacing, steps_in_sections(27, first.sections)[:3]) == ("sections", [997, 800, 799])
    assert (second.spacing, steps_with_both_ends(15)[:2]) == ("both_ends", [999, 928])


@pytest.mark.parametrize("module", MODULES)
def test_the_smoke_size_has_the_same_parts(module):
    config, small = module.get_config(), module.get_config("as_printed,smoke")
    for section in config:
        assert section == "seed" or small[section].keys() == config[section].keys()
    for made in (config, small):
        make_loss(build_stage(made), read_experiment(made).training)
        make_optimizer(**made.optimizer.to_dict())
    assert small.stage.corruption == config.stage.corruption and small.network.dtype == "float32"
    with pytest.raises(ValueError, match=r"known: as_printed, .*,smoke"):
        module.get_config("big")
