"""The smoke size of training on one's own images: the same as the quickstart's, and once more after its end."""

import numpy as np
import pytest

from configs import own_images as own_images_config
from imagen_jax.train import train
from tests.end_to_end.smoke_runs import check_cascade_of_two, plain, smoke

pytestmark = pytest.mark.slow


def test_own_images_train_resume_bit_for_bit_and_sample(tmp_path, data_dir, own_images, caplog):
    check_cascade_of_two(own_images_config.get_config, tmp_path, data_dir, own_images, caplog)


def test_a_finished_run_returns_at_once(tmp_path, data_dir, own_images, capsys):
    config = smoke(own_images_config.get_config, "base", data_dir, own_images)
    first = train(config, tmp_path)
    second = train(config, tmp_path)
    assert "trained already" in capsys.readouterr().out
    assert all(np.array_equal(a, b) for a, b in zip(plain(first), plain(second), strict=True))
