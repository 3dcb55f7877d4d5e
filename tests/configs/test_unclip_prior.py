"""unCLIP's diffusion prior: what Table 3 of the paper prints, and the count of its parameters."""

import numpy as np
import pytest

from configs.unclip import prior
from imagen_jax.cascade.experiment import read_experiment
from imagen_jax.cascade.stage import abstract_params, build_stage, parameter_axes
from imagen_jax.cascade.stage_task import make_stage_task
from imagen_jax.forecast.parameter_count import count_parameters, total_of
from imagen_jax.sharding.axes import unnamed_parameters


def test_the_prior_is_what_the_paper_prints():
    config = read_experiment(prior.get_config())
    stage = build_stage(config)
    network = stage.network
    assert (network.width, network.layers, network.heads, network.causal) == (2048, 24, 32, True)
    assert stage.shape == (1024,) and stage.value_range is None and config.stage.schedule == "cosine"
    # 17.2 times a vector of length 1.
    vector = np.eye(1, 1024, dtype=np.float32)
    sample = stage.space.to_samples(stage.space.to_vectors(vector))
    assert np.linalg.norm(sample) == pytest.approx(17.2, rel=1e-6)
    training, optimizer = config.training, config.optimizer
    assert (training.batch_size, training.steps, training.ema_decay) == (4096, 600_000, 0.9999)
    assert (training.caption_dropout, training.drop["text_vector"], training.drop_together) == (0.1, 0.1, True)
    options = optimizer.options
    assert (optimizer.name, optimizer.learning_rate, options["b2"], options["epsilon"], options["weight_decay"]) == (
        "adamw", 1.1e-4, 0.96, 1e-6, 6e-2
    )  # fmt: skip
    assert stage.draws == 2 and stage.settings.guidance_weight == 1.0


def test_it_has_the_parameters_of_its_blocks_and_names_their_axes():
    stage = build_stage(prior.get_config())
    assert total_of(count_parameters(abstract_params(stage))) == pytest.approx(1.21e9, rel=0.03)
    assert unnamed_parameters(parameter_axes(stage)) == []


def test_the_smoke_size_has_the_same_parts():
    config, small = prior.get_config(), prior.get_config("as_printed,smoke")
    for section in config:
        assert section == "seed" or small[section].keys() == config[section].keys()
    make_stage_task(small)
    with pytest.raises(ValueError, match="unknown variant"):
        prior.get_config("large")
