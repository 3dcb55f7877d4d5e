"""The smoke size of Imagen's cascade trains and samples, and a stage of OpenMoji's trains."""

import numpy as np
import pytest

from configs import openmoji
from configs.imagen import base_64, super_res_256, super_res_1024
from imagen_jax.cascade.cascade import load_cascade
from imagen_jax.train import train_to_end as train
from tests.end_to_end.smoke_runs import copy_after_first_step, losses, plain, smoke

STAGES = {
    "base": (base_64.get_config, "2b"),
    "super_res_256": (super_res_256.get_config, "as_printed"),
    "super_res_1024": (super_res_1024.get_config, "as_printed"),
}

pytestmark = pytest.mark.slow(seconds=40)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder for the stages, and those that a test of this module has trained."""
    return tmp_path_factory.mktemp("trained"), {}


def train_stage(trained, stage, data_dir, own_images, **training):
    """Trains a stage of Imagen's at its smoke size, or takes what an earlier test trained.

    Without previews, which would compile samplers that the cascade compiles as well.
    """
    folder, states = trained
    get_config, variant = STAGES[stage]
    config = smoke(get_config, variant, data_dir, own_images)
    if stage == "base":
        # Its one level has every part: compiling is most of the time.
        config.network.update({"channel_multipliers": (1,), "attention_resolutions": (8,)})
    config.training.update(training)
    if stage not in states:
        states[stage] = train(config, folder / stage)
    return folder / stage, config, states[stage]


@pytest.fixture(autouse=True)
def no_previews(monkeypatch):
    monkeypatch.setattr("imagen_jax.tasks.stage.make_hooks", lambda *arguments: [])


@pytest.mark.thorough
def test_the_base_trains_by_adafactor_and_resumes_bit_for_bit(trained, tmp_path, data_dir, own_images):
    workdir, config, whole = train_stage(trained, "base", data_dir, own_images, checkpoint_every=1)
    assert int(whole.step) == 2 and all(np.isfinite(loss) for loss in losses(workdir).values())
    resumed = train(config, copy_after_first_step(workdir, tmp_path / "cut"))
    assert all(np.array_equal(a, b) for a, b in zip(plain(whole), plain(resumed), strict=True))


@pytest.mark.thorough
def test_a_cascade_of_three_trains_and_samples(trained, data_dir, own_images):
    workdirs = []
    for stage in STAGES:
        workdir, _, state = train_stage(trained, stage, data_dir, own_images, checkpoint_every=1)
        assert int(state.step) == 2 and all(np.isfinite(loss) for loss in losses(workdir).values())
        workdirs.append(workdir)
    images = next(load_cascade(workdirs, batch_size=2).draw(["panda", "a bar"]))
    assert [one.shape for one in images] == [(2, size, size, 3) for size in (8, 16, 32)]
    assert all(np.all(np.isfinite(one)) and np.abs(one).max() <= 1 for one in images)


@pytest.mark.thorough
def test_a_stage_of_openmoji_s_trains(tmp_path, data_dir, own_images):
    """Its parts are those of Imagen's and of the quickstart's; that all its variants build is in ``tests/configs``."""
    state = train(smoke(openmoji.get_config, "super_res_256", data_dir, own_images), tmp_path / "run")
    assert int(state.step) == 2 and all(np.isfinite(loss) for loss in losses(tmp_path / "run").values())
