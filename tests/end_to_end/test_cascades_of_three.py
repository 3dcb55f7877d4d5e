"""The smoke sizes of Imagen's cascade and of OpenMoji's train and sample."""

import shutil

import numpy as np
import pytest

from configs import openmoji
from configs.imagen import base_64, super_res_256, super_res_1024
from imagen_jax.cascades import load_cascade
from imagen_jax.train import train
from tests.end_to_end.smoke_runs import losses, plain, smoke

CASCADES = {
    "imagen": {
        "base": (base_64.get_config, "2b"),
        "super_res_256": (super_res_256.get_config, "as_printed"),
        "super_res_1024": (super_res_1024.get_config, "as_printed"),
    },
    "openmoji": {stage: (openmoji.get_config, stage) for stage in ("base", "super_res_256", "super_res_1024")},
}

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", CASCADES)
def test_a_cascade_of_three_trains_and_samples(name, tmp_path, data_dir, own_images, monkeypatch):
    """Mostly the parts of the other configs, so a resumed run is looked at once: of the stage trained by Adafactor.

    Without previews, which would compile samplers that the cascade compiles as well.
    """
    monkeypatch.setattr("imagen_jax.train.make_showing", lambda *arguments: [])
    for stage, (get_config, variant) in CASCADES[name].items():
        config = smoke(get_config, variant, data_dir, own_images)
        resumes = (name, stage) == ("imagen", "base")
        config.training.checkpoint_every = 1 if resumes else 2
        whole = train(config, tmp_path / stage)
        assert int(whole.step) == 2 and all(np.isfinite(loss) for loss in losses(tmp_path / stage).values())
        if resumes:
            shutil.copytree(tmp_path / stage, tmp_path / "cut", ignore=shutil.ignore_patterns("2"))
            assert [path.name for path in (tmp_path / "cut" / "checkpoints").iterdir()] == ["1"]
            resumed = train(config, tmp_path / "cut")
            assert all(np.array_equal(a, b) for a, b in zip(plain(whole), plain(resumed), strict=True))

    drawn = next(load_cascade([tmp_path / stage for stage in CASCADES[name]], batch_size=2).draw(["panda", "a bar"]))
    assert [images.shape for images in drawn] == [(2, size, size, 3) for size in (8, 16, 32)]
    assert all(np.all(np.isfinite(images)) and np.abs(images).max() <= 1 for images in drawn)
