"""A CLIP that two processes of four devices train is the one that a process with eight trains."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from imagen_jax.encoders.pretrained_clip import load_clip
from imagen_jax.tasks.clip_hooks import FILE_NAME
from imagen_jax.train import train_to_end
from imagen_jax.training.monitoring.metrics import read_metrics
from tests.end_to_end.smoke_runs import draw_own_images, losses

pytestmark = [pytest.mark.thorough, pytest.mark.slow(seconds=90)]

CHECKOUT = Path(__file__).parents[2]

CONFIG = """
from configs import emoji_clip

def get_config():
    config = emoji_clip.get_config("{variant},smoke")
    config.data.update({{"source": "folder", "options": {{"folder": "{images}"}}, "data_dir": "{data_dir}"}})
    return config
"""

CAPTIONS = ["square number 3", "bar number 2"]


@pytest.mark.parametrize("variant", ["scratch", "frozen"])
def test_two_processes_train_measure_and_export_as_one(variant, tmp_path):
    (tmp_path / "images").mkdir()
    images = draw_own_images(tmp_path / "images")
    file = tmp_path / "config.py"
    file.write_text(CONFIG.format(variant=variant, images=images, data_dir=tmp_path / "data"), encoding="utf-8")
    one, two = tmp_path / "one", tmp_path / "two"
    train_to_end(runpy.run_path(str(file))["get_config"](), one)

    launcher = [sys.executable, str(CHECKOUT / "launch" / "simulate_hosts.py"), "-n", "2", "--devices_per_host", "4"]
    command = [sys.executable, "-m", "imagen_jax.train", f"--config={file}", f"--workdir={two}"]
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT), "IMAGEN_JAX_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        [*launcher, "--", *command], env=environment, capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr

    assert losses(two) == pytest.approx(losses(one), rel=1e-5)
    measured = [read_metrics(workdir, FILE_NAME) for workdir in (one, two)]
    assert measured[0] and measured[1] == measured[0]
    clips = [load_clip(str(workdir), model="") for workdir in (one, two)]
    # Adam divides by the size of a gradient, which turns a last digit into a small step.
    np.testing.assert_allclose(*(clip.encode_texts(CAPTIONS) for clip in clips), atol=1e-3)
