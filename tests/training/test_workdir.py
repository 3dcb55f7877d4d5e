"""The config a run keeps."""

import inspect
import json

import pytest
from ml_collections import ConfigDict

from imagen_jax.data.sources.sources import SOURCES
from imagen_jax.encoders.encoder import TEXT_ENCODERS
from imagen_jax.errors import UserError
from imagen_jax.training.workdir import PATHS, check_continues, keep_config, read_config


def make_config(**training):
    return ConfigDict(
        {"seed": 0, "training": {"steps": 5, "batch_size": 2, "gradient_accumulation": 1, **training}, "shape": (1, 2)}
    )


def begin(workdir):
    """As if a run had kept its first checkpoint."""
    (workdir / "checkpoints" / "1").mkdir(parents=True)


def test_a_kept_config_reads_back(tmp_path):
    keep_config(tmp_path / "run", make_config())
    kept = read_config(tmp_path / "run")
    assert (kept["seed"], kept["shape"]) == (0, [1, 2])
    assert kept["training"] == kept["training"] | {"steps": 5, "batch_size": 2, "gradient_accumulation": 1}


def test_the_same_run_may_continue_longer_but_not_differently(tmp_path):
    keep_config(tmp_path, make_config())
    begin(tmp_path)
    keep_config(tmp_path, make_config(steps=9))
    assert read_config(tmp_path)["training"]["steps"] == 9
    with pytest.raises(UserError, match=r"config\.training\.batch_size=2.* 4"):
        keep_config(tmp_path, make_config(batch_size=4))
    assert read_config(tmp_path)["training"]["batch_size"] == 2, "what was there is kept"


def test_a_folder_without_a_run_is_named(tmp_path):
    with pytest.raises(UserError, match=r"config\.json.*imagen_jax\.train"):
        read_config(tmp_path)


def test_a_damaged_config_is_named(tmp_path):
    (tmp_path / "config.json").write_text('{"seed": ')
    with pytest.raises(UserError, match=r"config\.json"):
        read_config(tmp_path)


def test_a_workdir_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="another --workdir"):
        keep_config(tmp_path / "file", make_config())


def test_a_run_of_an_older_version_gets_the_keys_added_since_and_continues(tmp_path):
    older = {"stage": {"resolution": 8}, "text": {"encoder": "minilm"}, "sampling": {"steps": 4}}
    (tmp_path / "config.json").write_text(json.dumps(older))
    config = read_config(tmp_path)
    added = {
        "text": {"options": {}, "null": "zeros", "embeddings": "stored"},
        "stage": {"enlarge_before_noise": "none", "noise_conditioning": "log_snr"},
        "sampling": {
            "max_threshold": 1e9,
            "spacing": "uniform",
            "gamma": 0.0,
            "eta": 0.0,
            "guidance_interval": (),
            "batched_guidance": False,
        },
    }
    for section, values in added.items():
        assert config[section] == config[section] | older[section] | values
    assert set(config) == set(older), "no section comes from nowhere"
    keep_config(tmp_path, config)
    begin(tmp_path)
    config["text"]["null"] = "empty_caption"
    with pytest.raises(UserError, match=r"config\.text\.null='zeros'.*'empty_caption'"):
        keep_config(tmp_path, config)


@pytest.mark.parametrize("content", ["[1, 2]", "3", '{"stage": 3}'])
def test_what_is_no_config_is_named(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match=r"config\.json"):
        read_config(tmp_path)


def test_before_the_first_checkpoint_any_config_replaces_another(tmp_path):
    keep_config(tmp_path, make_config())
    keep_config(tmp_path, make_config(batch_size=4))
    assert read_config(tmp_path)["training"]["batch_size"] == 4
    (tmp_path / "checkpoints" / "1.damaged").mkdir(parents=True)
    with pytest.raises(UserError, match=r"batch_size=4.* 2"):
        keep_config(tmp_path, make_config())


MUON = {
    "name": "muon",
    "learning_rate": 0.02,
    "adam_ratio": 0.1,
    "warm_up_steps": 3,
    "decay_steps": 9,
    "clip_norm": 1.0,
}


@pytest.mark.parametrize(
    ("key", "value", "free"),
    [
        ("learning_rate", 0.01, True),
        ("adam_ratio", 0.3, True),
        ("warm_up_steps", 4, True),
        ("decay_steps", 20, True),
        ("clip_norm", 2.0, True),
        ("clip_norm", None, False),
        ("name", "adam", False),
    ],
)
def test_what_the_optimizer_keeps_may_not_change_all_else_of_it_may_and_is_printed(tmp_path, capsys, key, value, free):
    before, after = (make_config().to_dict() | {"optimizer": MUON | change} for change in ({}, {key: value}))
    keep_config(tmp_path, ConfigDict(before))
    begin(tmp_path)
    capsys.readouterr()
    if not free:
        with pytest.raises(UserError, match=rf"config\.optimizer\.{key}"):
            keep_config(tmp_path, ConfigDict(after))
        return
    keep_config(tmp_path, ConfigDict(after))
    (line,) = "".join(capsys.readouterr()).strip().splitlines()
    assert all(fact in line for fact in (f"config.optimizer.{key}", str(MUON[key]), str(value)))
    assert read_config(tmp_path)["optimizer"][key] == value


def trained_on(data_folder, text_folder="t5", source="prepared"):
    """A config whose keys name places."""
    data = {"source": source, "data_dir": "cache", "options": {"folder": str(data_folder)}}
    text = {"encoder": "t5", "options": {"folder": str(text_folder), "tokenizer": f"{text_folder}/spiece.model"}}
    return ConfigDict(
        {
            "data": data,
            "text": text,
            "training": {"steps": 5},
            "clip": {"tokenizer": "vocabulary"},
            "codes": {"clip": "clip"},
        }
    )


PRINTS = {"data_set": "1234", "text_encoder": "t5-64-abcd"}


@pytest.mark.parametrize("key", PATHS)
def test_a_path_may_change_where_its_fingerprint_is_the_same(tmp_path, key):
    config = trained_on("data", source="folder")
    keep_config(tmp_path, config, PRINTS)
    begin(tmp_path)
    section, *names = key.split(".")
    with config.unlocked():
        target = config[section][names[0]] if len(names) == 2 else config[section]
        target[names[-1]] = "moved"
    keep_config(tmp_path, config, PRINTS)
    assert read_config(tmp_path)["fingerprints"] == PRINTS


@pytest.mark.parametrize("name", PRINTS)
def test_another_fingerprint_is_refused_whatever_the_path(tmp_path, name):
    keep_config(tmp_path, trained_on("data"), PRINTS)
    begin(tmp_path)
    with pytest.raises(UserError, match=rf"{name.replace('_', ' ')} .*{PRINTS[name]}.*ffff"):
        keep_config(tmp_path, trained_on("data"), PRINTS | {name: "ffff"})
    assert read_config(tmp_path)["fingerprints"] == PRINTS, "what was there is kept"


@pytest.mark.parametrize(
    ("before", "now", "same"),
    [
        ("images", "images/", True),
        ("images", "./images", True),
        ("images", "{here}/images", True),
        ("link", "images", True),
        ("images", "others", False),
    ],
)
def test_a_run_without_fingerprints_continues_with_the_same_path_in_any_form(tmp_path, monkeypatch, before, now, same):
    monkeypatch.chdir(tmp_path)
    for name in ("images", "others"):
        (tmp_path / name).mkdir()
    (tmp_path / "link").symlink_to("images")
    keep_config(tmp_path / "run", trained_on(before, source="folder"))
    begin(tmp_path / "run")
    config = trained_on(now.format(here=tmp_path), source="folder")
    if same:
        check_continues(tmp_path / "run", config)
        return
    with pytest.raises(UserError, match=r"config\.data\.options\.folder='images'.*'others'"):
        check_continues(tmp_path / "run", config)


def test_every_option_that_is_a_path_is_listed():
    made_by = {"data": [source.list_all for source in SOURCES.values()], "text": list(TEXT_ENCODERS.values())}
    options = {
        f"{section}.options.{name}"
        for section, functions in made_by.items()
        for function in functions
        for name, parameter in inspect.signature(function).parameters.items()
        if "Path" in str(parameter.annotation)
    }
    assert options <= set(PATHS) and options
