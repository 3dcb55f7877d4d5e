"""A section is read from what a config file or a saved run has, and nothing in it passes unread."""

import dataclasses
import inspect
from collections.abc import Mapping

import pytest
from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from imagen_jax.config.reading import fit, key_defaults, key_types, read_section, to_plain, with_defaults
from imagen_jax.config.section import Section
from imagen_jax.config.sections import (
    CLASSIFIER_SECTIONS,
    SECTIONS,
    DataConfig,
    LoopConfig,
    NetworkConfig,
    OptimizerConfig,
    SamplingConfig,
    StageConfig,
    TrainingConfig,
)
from imagen_jax.errors import UserError


def test_a_section_has_its_keys_and_the_defaults_of_the_others():
    stage = read_section(StageConfig, {"resolution": 64, "crop": 32}, "stage")
    assert (stage.resolution, stage.crop, stage.low_resolution, stage.noise_conditioning) == (64, 32, None, "log_snr")
    with pytest.raises(dataclasses.FrozenInstanceError):
        stage.crop = 16


def test_lists_become_tuples_and_whole_numbers_floats():
    data = read_section(DataConfig, {"source": "prepared", "resolution": 8, "weights": [1, 0.5]}, "data")
    assert data.weights == (1.0, 0.5) and type(data.weights[0]) is float
    loop = read_section(LoopConfig, {"steps": 1e4, "batch_size": 2}, "training")
    assert loop.steps == 10_000 and type(loop.steps) is int
    network = read_section(NetworkConfig, {"name": "unet", "channels": [8, [16]], "dtype": "bfloat16"}, "network")
    assert (network.fields, network.dtype) == ({"channels": (8, (16,))}, "bfloat16")


def test_what_is_read_is_written_again():
    adam = {"name": "adam", "learning_rate": 0.1, "warm_up_steps": 1, "decay_steps": 2, "clip_norm": None, "b1": 0.5}
    optimizer = read_section(OptimizerConfig, adam, "optimizer")
    assert optimizer.options == {"b1": 0.5} and optimizer.to_dict() == adam


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"steps": "many"}, "training.steps"),
        ({"steps": 1.5}, "training.steps"),
        ({"steps": True}, "training.steps"),
        ({"steps": None}, "training.steps"),
        ({"ema_decay": "0.9"}, "training.ema_decay"),
        ({"ema_warm_up": 1}, "training.ema_warm_up"),
        ({"on_nonfinite": 3}, "training.on_nonfinite"),
    ],
)
def test_a_value_of_another_type_is_refused_by_its_key(change, key):
    with pytest.raises(UserError, match=f"config.{key} "):
        read_section(LoopConfig, {"steps": 1, "batch_size": 1, **change}, "training")


@pytest.mark.parametrize("value", ["a", ["a"], [True], {"a": 1}])
def test_so_is_an_entry_of_a_list(value):
    with pytest.raises(UserError, match=r"config\.data\.weights "):
        read_section(DataConfig, {"source": "prepared", "resolution": 8, "weights": value}, "data")


def test_a_key_without_a_default_is_missed():
    with pytest.raises(UserError, match=r"config\.training\.batch_size "):
        read_section(TrainingConfig, {"steps": 1}, "training")


def test_an_unknown_key_is_refused_with_the_nearest_or_our_name_for_it():
    given = {"steps": 4, "guidance": 1.0}
    with pytest.raises(UserError, match=r"'guidnace'.*'guidance'"):
        read_section(SamplingConfig, given | {"guidnace": 3.0}, "sampling")
    with pytest.raises(UserError, match=r"'num_steps'.*'steps'"):
        read_section(SamplingConfig, given | {"num_steps": 3}, "sampling", {"num_steps": "steps"})


@pytest.mark.parametrize("given", [3, None, [1], "text"])
def test_what_is_no_section_is_refused(given):
    with pytest.raises(UserError, match=r"config\.stage "):
        read_section(StageConfig, given, "stage")


def test_a_config_dict_becomes_plain():
    config = ConfigDict({"seed": 3, "training": {"steps": placeholder(int), "batch_size": 2}})
    config.training.steps = 5
    plain = to_plain(config)
    assert plain == {"seed": 3, "training": {"batch_size": 2, "steps": 5}} and type(plain["training"]) is dict


def test_a_saved_config_gets_defaults_in_the_sections_that_it_has():
    saved = {"seed": 1, "preview": {"prompts": ["a"], "samples": 8}, "elsewhere": {"a": 1}}
    assert with_defaults(saved) == {
        "seed": 1,
        "preview": {"prompts": ["a"], "samples": 8, "compared": 2000, "features": "efficientnet_lite0"},
        "elsewhere": {"a": 1},
    }
    with pytest.raises(TypeError):
        with_defaults({"preview": 3})


KEYS = [
    (kind, name, key)
    for sections in (SECTIONS, CLASSIFIER_SECTIONS)
    for name, kind in sections.items()
    for key in key_types(kind)
]


@pytest.mark.parametrize(("kind", "name", "key"), KEYS)
def test_every_key_takes_its_default_and_nothing_of_an_unknown_type(kind, name, key):
    wanted, default = key_types(kind)[key], key_defaults(kind).get(key)
    if key in key_defaults(kind):
        assert fit(default, wanted, f"{name}.{key}") == default
    with pytest.raises(UserError, match=f"config.{name}.{key} "):
        fit(object(), wanted, f"{name}.{key}")
    if isinstance(default, Mapping):
        assert key_defaults(kind)[key] is not default, "each config has its own"


def test_every_key_is_described():
    for kind in (SECTIONS | CLASSIFIER_SECTIONS).values():
        described = "".join(inspect.getdoc(one) for one in kind.__mro__ if issubclass(one, Section))
        assert [key for key in key_types(kind) if f"\n    {key}: " not in described] == []
