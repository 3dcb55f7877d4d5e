"""Recomputation changes only what is stored."""

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs.imagen import base_64, super_res_256
from imagen_jax.cascade.experiment import read_experiment
from imagen_jax.cascade.stage import build_stage, initial_params
from imagen_jax.errors import UserError
from imagen_jax.forecast.flops import count_operations
from imagen_jax.forecast.stage_programs import count_training_operations, training_program
from imagen_jax.models.remat import POLICIES
from tests.models.gradients import lower_gradient

CONFIGS = {"unet": base_64.get_config, "efficient_unet": super_res_256.get_config, "deepfloyd_unet": base_64.get_config}
VARIANTS = {"unet": "2b,smoke", "efficient_unet": "as_printed,smoke", "deepfloyd_unet": "2b,smoke"}
DEEPFLOYD = {
    "name": "deepfloyd_unet",
    "channels": (32, 64),
    "blocks": (1, 1),
    "attention": ("none", "self"),
    "middle_attention": "cross",
    "text_channels": 32,
    "head_channels": 16,
    "text_heads": 4,
    "out_channels": 3,
    "dtype": "float32",
}


def smoke_config(network, remat):
    config = CONFIGS[network](VARIANTS[network])
    if network == "deepfloyd_unet":
        config.network = ConfigDict(DEEPFLOYD | {"remat": remat})
        config.stage.noise_conditioning = "timestep"
        return config
    config.network.remat = remat
    config.network.dropout = 0.5
    return config


CHANGES = {
    "efficient_unet": {
        "channels": (16,),
        "blocks": (2,),
        "strides": (1,),
        "self_attention": (True,),
        "cross_attention": (False,),
    }
}
"""One level of the network that is compiled without ``--thorough``."""


def gradient_of(network, remat, **changes):
    """The loss, its gradient, and the memory that their program takes for what lies between."""
    config = smoke_config(network, remat)
    config.network.update(changes)
    lowered, arguments = lower_gradient(config)
    program = lowered.compile()
    return *program(*arguments), program.memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize(
    ("network", "policies"),
    [
        pytest.param("unet", ["attention", "blocks"], marks=pytest.mark.thorough),
        pytest.param("efficient_unet", ["elementwise"], marks=pytest.mark.thorough),
        pytest.param("deepfloyd_unet", ["attention", "elementwise"], marks=pytest.mark.thorough),
    ],
)
def test_the_gradient_is_the_same_whatever_is_kept(network, policies):
    """With dropout, whose masks must be recomputed equally; and for parameters of the same names."""
    loss, kept, memory = gradient_of(network, "none", **CHANGES.get(network, {}))
    nonzero = [bool(np.any(leaf != 0)) for leaf in jax.tree.leaves(kept)]
    assert sum(nonzero) > 0.9 * len(nonzero), "there is something to compare"
    for remat in policies:
        again, recomputed, less_memory = gradient_of(network, remat, **CHANGES.get(network, {}))
        assert less_memory < memory, "compilers may find that two results are equal, and keep one"
        np.testing.assert_allclose(again, loss, rtol=1e-6)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-5), kept, recomputed)


@pytest.mark.thorough
@pytest.mark.parametrize("network", CONFIGS)
def test_more_is_computed_from_policy_to_policy_and_the_model_stays_as_large(network):
    done, of_model = {}, count_training_operations(smoke_config(network, "none"))
    for remat in POLICIES:
        config = smoke_config(network, remat)
        program = training_program(build_stage(config), read_experiment(config).training)
        done[remat] = count_operations(program.function, *program.arguments)
        assert remat == "none" or count_training_operations(config) == of_model
    assert done["none"] == of_model
    assert done["none"] < done["attention"] <= done["elementwise"] < done["blocks"] < 4 / 3 * 1.01 * done["none"]


def test_an_unknown_policy_names_the_nearest():
    config = smoke_config("unet", "block")
    config.network.update({"channel_multipliers": (1,), "attention_resolutions": ()})
    with pytest.raises(UserError, match="'blocks'"):
        initial_params(build_stage(config), jax.random.key(0))
