"""The smoke size of training on one's own images. What it shares with the quickstart is tested there."""

import numpy as np
import pytest

from configs import own_images as own_images_config
from imagen_jax.cascades import load_cascade
from imagen_jax.train import train
from tests.end_to_end.smoke_runs import VARIANTS, losses, plain, smoke

pytestmark = pytest.mark.slow


def test_own_images_train_and_sample_and_a_finished_run_returns_at_once(tmp_path, data_dir, own_images, capsys):
    for variant in VARIANTS:
        config = smoke(own_images_config.get_config, variant, data_dir, own_images)
        whole = train(config, tmp_path / variant)
        assert int(whole.step) == 2 and all(np.isfinite(loss) for loss in losses(tmp_path / variant).values())
        assert [path.name for path in (tmp_path / variant / "previews").iterdir()] == ["0000002.png"]
    assert "trained already" not in capsys.readouterr().out
    again = train(config, tmp_path / variant)
    assert "trained already" in capsys.readouterr().out
    assert all(np.array_equal(a, b) for a, b in zip(plain(whole), plain(again), strict=True))

    cascade = load_cascade([tmp_path / variant for variant in VARIANTS], batch_size=2)
    small, large = next(cascade.draw(["square number 2", "bar number 3"]))
    assert small.shape == (2, 8, 8, 3) and large.shape == (2, 16, 16, 3)
    assert np.all(np.isfinite(large)) and np.abs(large).max() <= 1
