"""unCLIP's configs: what Table 3 of the paper prints, the count of the parameters, and their smoke sizes."""

import jax
import numpy as np
import pytest

from configs.unclip import decoder_64
from imagen_jax.cascade.experiment import read_experiment
from imagen_jax.cascade.stage import abstract_params, build_stage, parameter_axes
from imagen_jax.cascade.stage_task import make_stage_task
from imagen_jax.forecast.parameter_count import count_parameters, total_of
from imagen_jax.sharding.axes import unnamed_parameters
from imagen_jax.sharding.placement import path_of, place_state
from tests.reference.make_placements import mesh_of

TEXT = {"width": 2048, "layers": 24, "heads": 32, "context": 256, "vocabulary": 49_408}


def test_the_decoder_is_what_the_paper_prints():
    config = read_experiment(decoder_64.get_config())
    network = build_stage(config).network
    printed = {
        "channels": 512, "channel_multipliers": (1, 2, 3, 4), "blocks_per_level": 3, "head_channels": 64,
        "attention_resolutions": (32, 16, 8), "dropout": 0.1, "vector_tokens": 4,
    }  # fmt: skip
    assert {field: getattr(network, field) for field in printed} == printed
    assert dict(network.text_transformer) == TEXT
    assert (config.training.batch_size, config.training.steps, config.training.ema_decay) == (2048, 800_000, 0.9999)
    assert (config.training.caption_dropout, config.training.drop["image_vector"]) == (0.5, 0.1)
    assert not config.training.drop_together
    optimizer = config.optimizer
    assert (optimizer.name, optimizer.learning_rate, optimizer.options["b2"]) == ("adam", 1.2e-4, 0.999)
    assert (config.stage.schedule, config.stage.image_vector, config.sampling.steps) == ("cosine", 1024, 250)


def test_it_has_the_parameters_that_the_paper_says_and_each_chip_its_share():
    """3.5B as printed: 2.26B of the U-Net and 1.21B of the blocks of the text transformer."""
    config = decoder_64.get_config()
    stage = build_stage(config)
    params = abstract_params(stage)
    total = total_of(count_parameters(params))
    without_tables = total - sum(
        params["conditioning"]["text_transformer"][name].size for name in ("positions", "padding")
    ) - params["conditioning"]["text_transformer"]["tokens"]["embedding"].size  # fmt: skip
    assert without_tables == pytest.approx(3.47e9, rel=0.03) and total == pytest.approx(3.5e9, rel=0.03)

    axes = parameter_axes(stage)
    assert unnamed_parameters(axes) == []
    placed = place_state(params, axes, mesh_of(config, 256))
    shards = {path_of(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(placed)[0]}
    shapes = {path_of(path): leaf.shape for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]}
    held = sum(np.prod(shards[path].shard_shape(shape)) for path, shape in shapes.items())
    assert held < total / config.mesh.fsdp * 1.01


def test_the_smoke_size_has_the_same_parts():
    config, small = decoder_64.get_config(), decoder_64.get_config("paper,smoke")
    for section in config:
        if section != "seed":
            assert small[section].keys() == config[section].keys()
    make_stage_task(small)
    assert total_of(count_parameters(abstract_params(build_stage(small)))) < 1e6
    with pytest.raises(ValueError, match="unknown variant"):
        decoder_64.get_config("large")
