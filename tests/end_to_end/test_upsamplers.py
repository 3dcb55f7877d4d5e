"""unCLIP's upsamplers at their smoke size train, resume bit for bit, and enlarge the images of a base."""

import numpy as np
import pytest

from configs.imagen import base_64
from configs.unclip import upsampler_256, upsampler_1024
from imagen_jax.cascade.cascade import load_cascade
from imagen_jax.train import train_to_end as train
from tests.end_to_end.smoke_runs import copy_after_first_step, losses, plain, smoke

STAGES = {"base": (base_64, "2b"), "blurred": (upsampler_256, "as_printed"), "degraded": (upsampler_1024, "as_printed")}

pytestmark = [pytest.mark.thorough, pytest.mark.slow(seconds=90)]


def test_a_cascade_with_both_upsamplers_trains_resumes_and_samples(tmp_path, data_dir, own_images, monkeypatch):
    monkeypatch.setattr("imagen_jax.tasks.stage.make_hooks", lambda *arguments: [])
    for name, (module, variant) in STAGES.items():
        config = smoke(module.get_config, variant, data_dir, own_images)
        config.network.channel_multipliers = (1,)
        config.training.checkpoint_every = 1
        whole = train(config, tmp_path / name)
        assert int(whole.step) == 2 and all(np.isfinite(loss) for loss in losses(tmp_path / name).values())
        if name == "degraded":
            resumed = train(config, copy_after_first_step(tmp_path / name, tmp_path / "cut"))
            assert all(np.array_equal(a, b) for a, b in zip(plain(whole), plain(resumed), strict=True))
    cascade = load_cascade([tmp_path / name for name in STAGES], batch_size=2)
    images = next(cascade.draw(["panda", "a bar"]))
    assert [one.shape for one in images] == [(2, size, size, 3) for size in (8, 16, 32)]
    assert all(np.all(np.isfinite(one)) and np.abs(one).max() <= 1 for one in images)
