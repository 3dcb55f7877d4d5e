"""A stage that is measured while it trains: lines and a plot, the same when it was cut, and nothing where it is off."""

import json

import numpy as np
import pytest
from PIL import Image

from configs import own_images as own_images_config
from imagen_jax.train import train
from tests.small_networks import ATTENDING

pytestmark = pytest.mark.slow(seconds=35)


def small(variant, folder, images):
    config = own_images_config.get_config(f"{variant},smoke")
    config.data.data_dir, config.data.options.folder = str(folder), str(images)
    config.network.update(ATTENDING)
    config.training.update({"evaluate_every": 1, "preview_every": 1000, "ema_decay": 0.5})
    config.preview.update({"samples": 10, "compared": 30, "features": "pixels"})
    return config


def lines_of(workdir):
    return [json.loads(line) for line in (workdir / "evaluations.jsonl").read_text().splitlines()]


def prompts_of(workdir):
    return json.loads((workdir / "config.json").read_text())["preview"]["prompts"]


@pytest.mark.thorough
def test_each_step_has_a_line_and_a_run_that_was_cut_has_the_same(tmp_path, own_images):
    config = small("base", tmp_path / "data", own_images)
    config.training.preview_every = 0
    train(config, tmp_path / "whole")
    assert prompts_of(tmp_path / "whole") == [] and not (tmp_path / "whole" / "previews").exists()
    lines = lines_of(tmp_path / "whole")
    assert [line["step"] for line in lines] == [1, 2]
    assert all("frechet_distance" not in line for line in lines), "pixels have none"
    assert all(0 <= line["caption_recall_at_10"] <= 1 and line["chance"] == pytest.approx(10 / 30) for line in lines)
    with Image.open(tmp_path / "whole" / "evaluations.png") as plot:
        assert np.asarray(plot).std() > 5

    config.training.update({"steps": 1, "preview_every": 1000})
    train(config, tmp_path / "cut")
    prompts = prompts_of(tmp_path / "cut")
    assert len(set(prompts)) == 8 and set(prompts) <= {file.read_text().strip() for file in own_images.glob("*.txt")}
    # As a run has them that began with prompts of another config.
    saved = json.loads((tmp_path / "cut" / "config.json").read_text())
    saved["preview"]["prompts"] = ["square number 2"]
    (tmp_path / "cut" / "config.json").write_text(json.dumps(saved))
    config.training.update({"steps": 2, "evaluate_every": 0})
    train(config, tmp_path / "cut")
    assert prompts_of(tmp_path / "cut") == ["square number 2"], "a resumed run keeps its prompts"
    assert lines_of(tmp_path / "cut") == lines[:1], "off, nothing is measured"


@pytest.mark.thorough
def test_a_stage_that_enlarges_is_measured_in_a_network_with_a_distance(tmp_path, own_images):
    config = small("super_resolution", tmp_path / "data", own_images)
    config.training.steps = 1
    config.preview.features = "efficientnet_lite0"
    train(config, tmp_path / "run")
    (line,) = lines_of(tmp_path / "run")
    assert line["frechet_distance"] > 0 and 0 <= line["caption_recall_at_10"] <= 1
