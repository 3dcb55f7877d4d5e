"""The config of a stage as frozen values: made of a user's config, new or old, or of a saved one."""

import dataclasses
import json

import pytest
from ml_collections import ConfigDict

from configs import openmoji_classifier, own_images, quickstart
from configs.imagen import base_64
from imagen_jax.cascade.experiment import (
    read_classifier_experiment,
    read_experiment,
    read_model,
    read_saved_model,
)
from imagen_jax.cascade.loading import plan_stage
from imagen_jax.cascade.settings import SETTINGS, check_settings
from imagen_jax.config.reading import key_types
from imagen_jax.config.sections import MeshConfig, SamplingConfig
from imagen_jax.errors import UserError
from imagen_jax.pretrained import find_stages
from imagen_jax.sampling.sampler import STEP_RULES
from imagen_jax.sharding.mesh import MESH_AXES
from imagen_jax.storage.paths import to_path


@pytest.mark.parametrize("config", [quickstart.get_config, own_images.get_config, base_64.get_config])
def test_an_experiment_is_its_config(config):
    experiment = read_experiment(config())
    assert experiment.to_dict() == config().to_dict()
    assert read_experiment(experiment) is experiment
    assert read_experiment(config().to_dict()) == experiment
    assert json.loads(json.dumps(experiment.to_dict())) == json.loads(json.dumps(config().to_dict()))


def test_a_config_that_a_user_wrote_before_a_key_was_added_gets_its_default():
    config = ConfigDict(quickstart.get_config().to_dict())
    del config.training.max_rewinds, config.preview.samples, config.sampling.spacing, config.mesh.tensor
    experiment = read_experiment(config)
    assert (experiment.training.max_rewinds, experiment.preview.samples) == (3, 64)
    assert (experiment.sampling.spacing, experiment.mesh.tensor) == ("uniform", 1)


def test_old_names_of_keys_are_read_and_warn(capsys):
    config = ConfigDict(quickstart.get_config().to_dict())
    del config.training.gradient_accumulation, config.stage.noise_conditioning
    config.training.accumulate, config.stage.noise_measure = 4, "step_number"
    experiment = read_experiment(config)
    assert (experiment.training.gradient_accumulation, experiment.stage.noise_conditioning) == (4, "timestep")
    assert capsys.readouterr().err.count("warning: ") == 2


@pytest.mark.parametrize("key", ["data.source", "training.steps", "optimizer.name"])
def test_a_config_that_lacks_a_key_names_it(key):
    section, name = key.split(".")
    config = ConfigDict(quickstart.get_config().to_dict())
    del config[section][name]
    with pytest.raises(UserError, match=f"config.{key} "):
        read_experiment(config)
    del config[section]
    with pytest.raises(UserError, match=f"config.{section}"):
        read_experiment(config)


def test_a_stage_that_was_saved_by_an_older_version_samples_with_the_defaults():
    (folder, *_) = find_stages("openmoji")
    saved = json.loads((to_path(folder) / "config.json").read_text())
    config = plan_stage(to_path(folder)).config
    assert "noise_conditioning" not in saved["stage"] and config.stage.noise_conditioning == "log_snr"
    assert (config.sampling.max_threshold, config.sampling.batched_guidance) == (1e9, False)
    assert config.others["data"]["source"] == saved["data"]["source"], "and keeps what sampling does not read"
    assert config.fingerprints == saved.get("fingerprints", {})


def test_another_value_of_the_network_leaves_the_rest_as_it_was():
    model = read_model(quickstart.get_config())
    changed = model.with_network(dtype="bfloat16", patch=8)
    assert (changed.network.dtype, changed.network.fields["patch"]) == ("bfloat16", 8)
    assert dataclasses.replace(changed, network=model.network) == model
    assert (model.network.dtype, model.network.fields["patch"]) == ("float32", 4)


def test_a_setting_of_sampling_is_a_key_and_an_axis_of_the_mesh_too():
    assert set(SETTINGS) == set(key_types(SamplingConfig))
    assert set(MESH_AXES) == set(key_types(MeshConfig))


def test_a_sampler_that_is_added_later_has_a_name(monkeypatch):
    """As docs/extend.md does it."""
    with pytest.raises(UserError, match=r"'mine'.*ddim"):
        check_settings({"sampler": "mine"})
    monkeypatch.setitem(STEP_RULES, "mine", STEP_RULES["ddim"])
    assert check_settings({"sampler": "mine"}) == {"sampler": "mine"}


def test_a_classifier_has_its_own_sections():
    config = openmoji_classifier.get_config()
    experiment = read_classifier_experiment(config)
    assert experiment.given == config.to_dict()
    assert experiment.classifier.fields == {"channels": (48, 96), "blocks": 1, "patch": 2, "dropout": 0.1}
    with pytest.raises(UserError):
        read_classifier_experiment(quickstart.get_config())


def test_unknown_keys_of_a_saved_stage_are_left_out_with_a_warning(caplog, tmp_path):
    saved = quickstart.get_config("base,smoke").to_dict()
    saved["text"]["note"] = "x"
    assert read_saved_model(saved, to_path(tmp_path)) == read_model(quickstart.get_config("base,smoke").to_dict())
    (record,) = caplog.records
    assert "note" in record.getMessage() and str(tmp_path) in record.getMessage()


def test_a_classifiers_config_may_start_from_that_of_a_stage(caplog):
    config = quickstart.get_config("base,smoke")
    with config.unlocked():
        config.classifier = openmoji_classifier.get_config(",smoke").classifier
    read = read_classifier_experiment(config)
    assert read.training.steps == config.training.steps and read.classifier.classes == "openmoji_groups"
    warnings = " ".join(record.getMessage() for record in caplog.records)
    assert all(name in warnings for name in ("config.training.preview_every", "config.network", "config.text"))
    caplog.clear()
    assert read_experiment(config) == read_experiment(quickstart.get_config("base,smoke"))
    assert "config.classifier" in caplog.text
