"""Old names of flags and config keys still work."""

import json
import sys

import pytest
from ml_collections import ConfigDict

from configs import quickstart
from imagen_jax.config.reading import key_types
from imagen_jax.config.sections import SECTIONS
from imagen_jax.runtime import renamed
from imagen_jax.runtime.main import parse_flags
from imagen_jax.runtime.renamed import rename_config_keys, rename_flags, rename_key_flags, rename_saved_keys
from imagen_jax.training.workdir import check_continues, keep_config, read_config

OLD = {
    "seed": 3,
    "stage": {"noise_measure": "step_number", "resolution": 8},
    "training": {"accumulate": 2, "when_not_finite": "rewind", "steps": 5},
}
NEW = {
    "seed": 3,
    "stage": {"noise_conditioning": "timestep", "resolution": 8},
    "training": {"gradient_accumulation": 2, "on_nonfinite": "rewind", "steps": 5},
}


def test_every_new_key_is_one_that_configs_have():
    for section, keys in renamed.KEYS.items():
        known = set(key_types(SECTIONS[section]))
        assert set(keys.values()) <= known and not set(keys) & known


def test_flags_with_old_names_are_those_with_new_ones(capsys):
    given = [
        "sample",
        "--returns=2",
        "--noguide_at_once",
        "-least_side=3",
        "--prompt=--returns=2",
        "returns=2",
        "--debug",
    ]
    assert rename_flags(given) == [
        "sample", "--resample=2", "--nobatched_guidance", "-min_side=3", "--prompt=--returns=2", "returns=2", "--debug",
    ]  # fmt: skip
    assert capsys.readouterr().err.count("warning: ") == 3


def test_keys_on_a_command_line_take_the_names_of_the_config(capsys):
    given = ["train", "--config.training.accumulate=4", "--config.stage.noise_measure=step_number"]
    assert rename_key_flags(given, ConfigDict(NEW)) == [
        "train", "--config.training.gradient_accumulation=4", "--config.stage.noise_conditioning=timestep",
    ]  # fmt: skip
    assert capsys.readouterr().err.count("warning: ") == 2
    assert rename_key_flags(given, ConfigDict(OLD)) == given, "the file has the old names"


def test_an_old_config_becomes_a_new_one(capsys):
    assert rename_saved_keys(OLD) == rename_saved_keys(NEW) == NEW
    assert capsys.readouterr().err == "", "what a run saved needs no warning"
    config = ConfigDict(OLD)
    config.lock()
    rename_config_keys(config)
    assert config.to_dict() == NEW and config.is_locked
    assert capsys.readouterr().err.count("warning: ") == 3
    rename_config_keys(config)
    assert config.to_dict() == NEW and capsys.readouterr().err == ""


def test_an_old_run_continues_under_new_names(tmp_path):
    (tmp_path / "checkpoints" / "5").mkdir(parents=True)
    (tmp_path / "config.json").write_text(json.dumps(OLD))
    assert read_config(tmp_path)["training"]["gradient_accumulation"] == 2
    assert check_continues(tmp_path, ConfigDict(NEW)) == []
    keep_config(tmp_path, ConfigDict(NEW))


# ml_collections loads config files so.
@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
def test_a_command_line_with_old_names_is_parsed(config_flag, monkeypatch, tmp_path, capsys):
    arguments = ["train", "--config=configs/quickstart.py:base,smoke", "--config.training.skips_in_a_row=7"]
    monkeypatch.setattr(sys, "argv", list(arguments))
    parse_flags(arguments)
    assert config_flag.config.training.max_consecutive_nonfinite == 7
    assert "--config.training.max_consecutive_nonfinite" in capsys.readouterr().err


# ml_collections loads config files so.
@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
def test_an_old_value_of_a_key_is_parsed(config_flag, monkeypatch, capsys):
    arguments = ["train", "--config=configs/quickstart.py:base,smoke", "--config.stage.noise_measure=step_number"]
    monkeypatch.setattr(sys, "argv", list(arguments))
    parse_flags(arguments)
    assert config_flag.config.stage.noise_conditioning == "timestep"
    assert capsys.readouterr().err.count("warning: ") == 1


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
@pytest.mark.parametrize(("key", "times"), [("steps", 1), ("accumulate", 2)])
def test_a_config_file_runs_once_where_no_key_has_an_old_name(config_flag, monkeypatch, tmp_path, key, times):
    file = tmp_path / "counted.py"
    file.write_text(
        "from ml_collections import ConfigDict\n\n"
        "def get_config():\n"
        f"    with open({str(tmp_path / 'runs')!r}, 'a') as runs:\n        runs.write('x')\n"
        "    return ConfigDict({'training': {'steps': 1, 'gradient_accumulation': 1}})\n"
    )
    arguments = ["train", f"--config={file}", f"--config.training.{key}=4"]
    monkeypatch.setattr(sys, "argv", list(arguments))
    parse_flags(arguments)
    assert (tmp_path / "runs").read_text() == "x" * times


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
def test_a_broken_config_file_with_an_old_key_is_an_error_of_the_user(config_flag, monkeypatch, tmp_path, capsys):
    file = tmp_path / "broken.py"
    file.write_text("def get_config():\n    return {}['nothing']\n")
    arguments = ["train", f"--config={file}", "--config.training.accumulate=4"]
    monkeypatch.setattr(sys, "argv", list(arguments))
    with pytest.raises(SystemExit) as ended:
        parse_flags(arguments)
    assert ended.value.code == 2 and "Traceback" not in capsys.readouterr().err


# ml_collections loads config files so.
@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
def test_a_config_file_with_old_names_is_parsed(config_flag, monkeypatch, tmp_path, capsys):
    file = tmp_path / "old.py"
    file.write_text(
        "from ml_collections import ConfigDict\n\n"
        "def get_config():\n    return ConfigDict({'training': {'accumulate': 1}})\n"
    )
    arguments = ["train", f"--config={file}", "--config.training.accumulate=4"]
    monkeypatch.setattr(sys, "argv", list(arguments))
    parse_flags(arguments)
    assert config_flag.config.training.to_dict() == {"gradient_accumulation": 4}
    assert "config.training.accumulate is now config.training.gradient_accumulation" in capsys.readouterr().err


def test_a_config_of_this_version_has_nothing_to_rename(capsys):
    rename_config_keys(quickstart.get_config("base,smoke"))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("section", "old", "new", "value"),
    [
        ("training", "accumulate", "gradient_accumulation", 4),
        ("training", "skips_in_a_row", "max_consecutive_nonfinite", 3),
        ("data", "largest_bad_share", "max_bad_fraction", 0.2),
        ("sampling", "largest_bound", "max_threshold", 1.5),
        ("stage", "noise_measure", "noise_conditioning", "step_number"),
    ],
)
def test_an_old_key_that_a_config_file_sets_wins_over_the_default_of_the_new_one(section, old, new, value, capsys):
    config = quickstart.get_config("base,smoke")
    with config.unlocked():
        config[section][old] = value
    rename_config_keys(config)
    assert config[section][new] == ("timestep" if value == "step_number" else value) and old not in config[section]
    assert old in capsys.readouterr().err
