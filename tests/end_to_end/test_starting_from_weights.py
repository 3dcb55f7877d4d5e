"""export -> train on, and a training that continues another one's optimizer."""

import jax
import numpy as np
import pytest

import imagen_jax
from imagen_jax.cascade.loading import load_stage
from imagen_jax.errors import UserError
from imagen_jax.train import train, train_to_end
from imagen_jax.weight_formats.formats import export_stage
from tests.small_networks import ONE_LEVEL

pytestmark = pytest.mark.slow

UNMOVED = 1e-12
"""A learning rate with which the weights stay what they are."""


@pytest.fixture(scope="module")
def make_config(own_images, data_dir):
    def make(**training):
        config = imagen_jax.load_config("own_images:base,smoke")
        config.data.update({"data_dir": str(data_dir), "options": {"folder": str(own_images)}})
        config.network.update(ONE_LEVEL)
        config.training.update({"steps": 2, "checkpoint_every": 1, "preview_every": 0, **training})
        return config

    return make


@pytest.fixture(scope="module")
def first(make_config, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("first") / "run"
    train(make_config(), workdir)
    return workdir


def same(a, b):
    return all(np.allclose(*pair, atol=1e-6) for pair in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


@pytest.mark.parametrize("exported", [False, True])
@pytest.mark.thorough
def test_a_training_starts_from_a_workdir_and_from_an_export(first, make_config, tmp_path, capsys, exported):
    source = tmp_path / "exported" if exported else first
    if exported:
        export_stage("imagen_jax", first, source)
    config = make_config(steps=1, init_from=str(source))
    config.optimizer.learning_rate = UNMOVED
    state = train_to_end(config, tmp_path / "run")
    assert f"Starts from {source} (step 2)" in capsys.readouterr().out
    assert same(state.params, load_stage(first).params) and same(state.ema_params, load_stage(first).params)


@pytest.mark.thorough
def test_the_optimizer_continues_and_the_run_resumes_without_reading_the_source_again(
    first, make_config, tmp_path, capsys
):
    source = tmp_path / "copy"
    source.mkdir()
    (first / "checkpoints").rename(source / "checkpoints")
    (first / "config.json").rename(source / "config.json")
    try:
        kept = train_to_end(make_config(steps=1, init_from=str(source), init_optimizer=True), tmp_path / "kept")
        fresh = train_to_end(make_config(steps=1, init_from=str(source)), tmp_path / "fresh")
        assert int(kept.step) == int(fresh.step) == 1 and not same(kept.params, fresh.params)
    finally:
        (source / "checkpoints").rename(first / "checkpoints")
        (source / "config.json").rename(first / "config.json")
    capsys.readouterr()
    assert train(make_config(steps=2, init_from=str(source), init_optimizer=True), tmp_path / "kept").step == 2
    assert "continues after step 1 of 2" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("training", "facts"),
    [
        ({"init_parts": ("conv_in",)}, r"has the shape \(.*openmoji.*this network needs \("),
        ({"init_parts": ("convolution",)}, "'convolution'"),
    ],
)
def test_weights_that_do_not_fit_are_named_before_a_step(make_config, tmp_path, training, facts):
    with pytest.raises(UserError, match=facts):
        train(make_config(init_from="openmoji/base", **training), tmp_path / "run")


@pytest.mark.thorough
def test_the_optimizer_of_a_part_is_refused(first, make_config, tmp_path):
    config = make_config(init_from=str(first), init_parts=("conv_in",), init_optimizer=True)
    with pytest.raises(UserError, match="init_optimizer"):
        train(config, tmp_path / "run")


def test_parts_alone_have_no_effect_and_say_so(make_config, tmp_path):
    with pytest.raises(UserError, match="init_from"):
        train(make_config(init_parts=("conv_in",)), tmp_path / "run")
    with pytest.raises(UserError, match="nowhere"):
        train(make_config(init_from="nowhere"), tmp_path / "run")
