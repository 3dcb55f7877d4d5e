"""The smoke size of Imagen's cascade trains and samples, and a stage of OpenMoji's trains."""

import shutil

import numpy as np
import pytest

from configs import openmoji
from configs.imagen import base_64, super_res_256, super_res_1024
from imagen_jax.cascade.cascade import load_cascade
from imagen_jax.train import train
from tests.end_to_end.smoke_runs import losses, plain, smoke

STAGES = {
    "base": (base_64.get_config, "2b"),
    "super_res_256": (super_res_256.get_config, "as_printed"),
    "super_res_1024": (super_res_1024.get_config, "as_printed"),
}

pytestmark = pytest.mark.slow


def test_a_cascade_of_three_trains_and_samples(tmp_path, data_dir, own_images, monkeypatch):
    """Mostly the parts of the other configs, so a resumed run is looked at once: of the stage trained by Adafactor.

    Without previews, which would compile samplers that the cascade compiles as well.
    """
    monkeypatch.setattr("imagen_jax.train.make_preview_hooks", lambda *arguments: [])
    for stage, (get_config, variant) in STAGES.items():
        config = smoke(get_config, variant, data_dir, own_images)
        resumes = stage == "base"
        config.training.checkpoint_every = 1 if resumes else 2
        whole = train(config, tmp_path / stage)
        assert int(whole.step) == 2 and all(np.isfinite(loss) for loss in losses(tmp_path / stage).values())
        if resumes:
            shutil.copytree(tmp_path / stage, tmp_path / "cut", ignore=shutil.ignore_patterns("2"))
            assert [path.name for path in (tmp_path / "cut" / "checkpoints").iterdir()] == ["1"]
            resumed = train(config, tmp_path / "cut")
            assert all(np.array_equal(a, b) for a, b in zip(plain(whole), plain(resumed), strict=True))

    stages = next(load_cascade([tmp_path / stage for stage in STAGES], batch_size=2).draw(["panda", "a bar"]))
    assert [images.shape for images in stages] == [(2, size, size, 3) for size in (8, 16, 32)]
    assert all(np.all(np.isfinite(images)) and np.abs(images).max() <= 1 for images in stages)


def test_a_stage_of_openmoji_s_trains(tmp_path, data_dir, own_images, monkeypatch):
    """Its parts are those of Imagen's and of the quickstart's; that all its variants build is in ``tests/configs``."""
    monkeypatch.setattr("imagen_jax.train.make_preview_hooks", lambda *arguments: [])
    state = train(smoke(openmoji.get_config, "super_res_256", data_dir, own_images), tmp_path / "run")
    assert int(state.step) == 2 and all(np.isfinite(loss) for loss in losses(tmp_path / "run").values())
