"""A run whose newest checkpoint was damaged: the same command continues from the one before, and ends the same."""

import gc
import re
import shutil

import numpy as np
import pytest

from configs import own_images as own_images_config
from imagen_jax.cascade.loading import load_stage
from imagen_jax.errors import UserError
from imagen_jax.train import train_to_end as train
from tests.end_to_end.smoke_runs import draw_own_images, losses, plain
from tests.small_networks import ONE_LEVEL

# Orbax leaves coroutines of the other arrays unawaited, and Python says so when it collects them: here, not later.
pytestmark = [pytest.mark.thorough, pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")]


def make_config(folder, steps):
    config = own_images_config.get_config("base,smoke")
    config.network.update(ONE_LEVEL)
    config.data.update({"data_dir": str(folder / "data")})
    config.data.options.folder = str(folder / "images")
    config.training.update({"steps": steps, "checkpoint_every": 2, "preview_every": 0})
    return config


def harm(checkpoint):
    """Half of the files of a checkpoint are deleted, but not those that identify a checkpoint."""
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file() and "METADATA" not in path.name)
    for file in files[::2]:
        file.unlink()


def test_half_a_checkpoint_is_deleted_and_the_run_continues(tmp_path, capsys):
    (tmp_path / "images").mkdir()
    draw_own_images(tmp_path / "images")
    workdir = tmp_path / "run"
    whole = train(make_config(tmp_path, steps=4), workdir)
    expected = losses(workdir)
    harm(workdir / "checkpoints" / "4")
    damaged = shutil.copytree(workdir, tmp_path / "copy")
    capsys.readouterr()

    assert load_stage(workdir).step == 2
    assert re.search(r"checkpoints/4 .*\bstep 2\b", capsys.readouterr().err)

    # It was trained to the end, and so has to be trained again.
    again = train(make_config(tmp_path, steps=4), workdir)
    printed = capsys.readouterr()
    assert re.search(r"checkpoints/4 .* 4\.damaged\b.*\bstep 2\b", printed.err)
    assert "step 2 of 4" in printed.out
    assert all(np.array_equal(a, b) for a, b in zip(plain(whole), plain(again), strict=True))
    assert losses(workdir) == expected
    assert sorted(path.name for path in (workdir / "checkpoints").iterdir()) == ["2", "4", "4.damaged"]
    capsys.readouterr()
    assert int(train(make_config(tmp_path, steps=4), workdir).step) == 4
    assert re.search(rf"{re.escape(str(workdir))} .*\b4 steps", capsys.readouterr().out)

    harm(damaged / "checkpoints" / "2")
    for _ in range(2):
        with pytest.raises(UserError, match=re.escape(str(damaged))):
            train(make_config(tmp_path, steps=4), damaged)
    gc.collect()
