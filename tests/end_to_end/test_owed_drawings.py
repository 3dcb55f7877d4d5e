"""A step is saved before its preview is sampled; the next start samples the previews that a killed run lacks."""

import shutil

import pytest

from imagen_jax.tasks import stage as training
from imagen_jax.train import train
from imagen_jax.training.monitoring.metrics import read_metrics
from tests.end_to_end.smoke_runs import draw_own_images
from tests.end_to_end.test_damaged_runs import make_config

pytestmark = pytest.mark.thorough


class KilledError(Exception):
    """What a kill does, without ending the test."""


def previews_of(workdir):
    images = {path.name: path.read_bytes() for path in (workdir / "previews").iterdir()}
    return images, read_metrics(workdir, "evaluations.jsonl")


def test_a_run_killed_during_a_preview_has_the_same_previews_in_the_end(tmp_path, monkeypatch, capsys):
    (tmp_path / "images").mkdir()
    draw_own_images(tmp_path / "images")
    config = make_config(tmp_path, steps=4)
    config.training.update({"preview_every": 2, "evaluate_every": 2})
    config.preview.update({"samples": 4, "features": "pixels"})
    train(config, tmp_path / "whole")
    images, lines = previews_of(tmp_path / "whole")
    assert sorted(images) == ["0000002.png", "0000004.png"] and [line["step"] for line in lines] == [2, 4]

    make_hooks, workdir = training.make_hooks, tmp_path / "killed"

    def dying(*arguments):
        def die(number, info):
            raise KilledError

        return [hook._replace(act=die) for hook in make_hooks(*arguments)]

    # Which kills it at step 2, then as soon as it has begun again, and at the last step.
    for patched, done in ((dying, "2"), (dying, "2"), (make_hooks, "4")):
        monkeypatch.setattr(training, "make_hooks", patched)
        if patched is dying:
            with pytest.raises(KilledError):
                train(config, workdir)
        else:
            train(config, workdir)
        assert max(path.name for path in (workdir / "checkpoints").iterdir()) == done
    assert previews_of(workdir) == (images, lines)

    capsys.readouterr()
    (workdir / "previews" / "0000004.png").unlink()
    shutil.move(workdir / "evaluations.jsonl", tmp_path)
    train(config, workdir)
    assert previews_of(workdir)[0] == images and [line["step"] for line in previews_of(workdir)[1]] == [4]
    train(config, workdir)
    assert f"{workdir} " in (printed := capsys.readouterr().out) and "4 steps" in printed
