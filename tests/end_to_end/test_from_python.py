"""Training from Python, as in a notebook: names of configs, a result, and Ctrl-C."""

import os
import signal

import pytest

import imagen_jax
from imagen_jax.errors import UserError
from imagen_jax.tasks import stage as training
from imagen_jax.train import train
from imagen_jax.training.loop import Hook
from tests.small_networks import ONE_LEVEL

STEPS = 4


@pytest.fixture
def config(own_images, data_dir):
    config = imagen_jax.load_config("own_images:base,smoke")
    config.data.update({"data_dir": str(data_dir), "options": {"folder": str(own_images)}})
    config.network.update(ONE_LEVEL)
    config.training.update({"steps": STEPS, "checkpoint_every": 100, "preview_every": 100})
    return config


def checkpoints_of(workdir):
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir())


def press_after(number, monkeypatch):
    """The first call of the loop gets a Ctrl-C after a step."""
    make_hooks = training.make_hooks

    def pressing(*arguments):
        def press(step, info):
            if step == number:
                os.kill(os.getpid(), signal.SIGINT)

        return [Hook("press", 1, press), *make_hooks(*arguments)]

    monkeypatch.setattr(training, "make_hooks", pressing)


@pytest.mark.thorough
def test_ctrl_c_keeps_the_step_and_the_same_call_ends_the_training(tmp_path, config, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        press_after(2, patch)
        with pytest.raises(KeyboardInterrupt, match="step 3"):
            train(config, str(tmp_path / "run"))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert checkpoints_of(tmp_path / "run") == [3] and "Ctrl-C" in capsys.readouterr().err
    result = train(config, str(tmp_path / "run"))
    assert (result.workdir, result.step) == (tmp_path / "run", STEPS)
    assert [line["step"] for line in result.metrics] == [1, 2, 3, 4] and result.metrics[0]["loss"] > 0
    assert [preview.name for preview in result.previews] == [f"{STEPS:07d}.png"]
    assert "after step 3" in capsys.readouterr().out
    assert repr(train(config, tmp_path / "run")) == repr(result) and len(repr(result)) < 500


@pytest.mark.thorough
def test_ctrl_c_before_the_first_step_is_raised_and_leaves_a_run_that_can_begin(tmp_path, config, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("imagen_jax.train.open_log", interrupted)
        config.training.preview_every = 0
        with pytest.raises(KeyboardInterrupt):
            train(config, tmp_path / "run")
    assert train(config, tmp_path / "run").step == STEPS


def test_a_name_is_a_config_and_a_mistake_is_an_exception(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, fact in (("own_images:base", "folder"), ("own_image:base", "'own_images'"), ("mine.py", "copy_configs")):
        with pytest.raises(UserError, match=fact):
            train(name, "run")
