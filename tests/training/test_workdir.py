"""The config a run keeps."""

import json

import pytest
from ml_collections import ConfigDict

from imagen_jax.errors import UserError
from imagen_jax.training.workdir import keep_config, read_config


def make_config(**training):
    return ConfigDict(
        {"seed": 0, "training": {"steps": 5, "batch_size": 2, "accumulate": 1, **training}, "shape": (1, 2)}
    )


def test_a_kept_config_reads_back(tmp_path):
    keep_config(tmp_path / "run", make_config())
    assert read_config(tmp_path / "run").training.to_dict() == {
        "steps": 5, "batch_size": 2, "accumulate": 1, "evaluate_every": 0, "keep_every": 0, "skips_in_a_row": 10,
        "when_not_finite": "stop", "most_rewinds": 3,
    }  # fmt: skip


def test_the_same_run_may_go_on_longer_but_not_differently(tmp_path):
    keep_config(tmp_path, make_config())
    keep_config(tmp_path, make_config(steps=9))
    assert read_config(tmp_path).training.steps == 9
    with pytest.raises(UserError, match=r"config\.training\.batch_size=2, not 4"):
        keep_config(tmp_path, make_config(batch_size=4))
    assert read_config(tmp_path).training.batch_size == 2, "what was there is kept"


def test_a_folder_without_a_run_is_named(tmp_path):
    with pytest.raises(UserError, match=r"no config\.json.*imagen_jax\.train"):
        read_config(tmp_path)


def test_a_damaged_config_is_named(tmp_path):
    (tmp_path / "config.json").write_text('{"seed": ')
    with pytest.raises(UserError, match="can't be read"):
        read_config(tmp_path)


def test_a_workdir_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="another --workdir"):
        keep_config(tmp_path / "file", make_config())


def test_a_run_of_an_older_version_gets_the_keys_added_since_and_goes_on(tmp_path):
    older = {"stage": {"resolution": 8}, "text": {"encoder": "minilm"}, "sampling": {"steps": 4}}
    (tmp_path / "config.json").write_text(json.dumps(older))
    config = read_config(tmp_path)
    assert (config.stage.noise_measure, config.text.null, config.sampling.spacing) == ("log_snr", "zeros", "uniform")
    assert config.stage.resolution == 8
    keep_config(tmp_path, config)
    config.text.null = "empty_caption"
    with pytest.raises(UserError, match=r"config\.text\.null='zeros', not 'empty_caption'"):
        keep_config(tmp_path, config)


@pytest.mark.parametrize("content", ["[1, 2]", "3", '{"stage": 3}'])
def test_what_is_no_config_is_named(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match="can't be read"):
        read_config(tmp_path)
