"""Each config's smoke variant trains, is cut and resumed, and samples."""

import json
import shutil

import jax
import numpy as np
import pytest

from configs import openmoji, quickstart
from configs import own_images as own_images_config
from configs.imagen import base_64, super_res_256, super_res_1024
from imagen_jax.cascades import load_cascade
from imagen_jax.evaluate import evaluate
from imagen_jax.train import train

CONFIGS = {"quickstart": quickstart.get_config, "own_images": own_images_config.get_config}
VARIANTS = ("base", "super_resolution")

CASCADES = {
    "imagen": {
        "base": (base_64.get_config, "2b"),
        "super_res_256": (super_res_256.get_config, "as_printed"),
        "super_res_1024": (super_res_1024.get_config, "as_printed"),
    },
    "openmoji": {stage: (openmoji.get_config, stage) for stage in ("base", "super_res_256", "super_res_1024")},
}

pytestmark = pytest.mark.slow


def smoke(get_config, variant, data_dir, own_images):
    config = get_config(f"{variant},smoke")
    config.data.data_dir = str(data_dir)
    if config.data.source == "folder":
        config.data.options.folder = str(own_images)
    else:
        config.data.resolution = 32  # one set of drawings for every config, and one of their embeddings
    return config


def plain(state):
    """The state's arrays on the host, keys as their numbers."""
    return [
        np.asarray(jax.random.key_data(leaf) if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf)
        for leaf in jax.tree.leaves(state)
    ]


def losses(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_trains_resumes_bit_for_bit_and_samples(name, tmp_path, data_dir, own_images, caplog):
    for variant in VARIANTS:
        config = smoke(CONFIGS[name], variant, data_dir, own_images)
        whole = train(config, tmp_path / variant)
        assert int(whole.step) == 2 and set(losses(tmp_path / variant)) == {1, 2}

        config.training.steps = 1
        train(config, tmp_path / f"{variant}_cut")
        config.training.steps = 2
        resumed = train(config, tmp_path / f"{variant}_cut")
        assert all(np.array_equal(a, b) for a, b in zip(plain(whole), plain(resumed), strict=True))
        assert losses(tmp_path / variant) == losses(tmp_path / f"{variant}_cut")
        assert sorted(path.name for path in (tmp_path / variant / "previews").iterdir()) == ["0000002.png"]

    workdirs = [tmp_path / variant for variant in VARIANTS]
    cascade = load_cascade(workdirs, batch_size=2)
    small, large = next(cascade.draw(["red apple", "panda"]))
    assert small.shape == (2, 8, 8, 3) and large.shape == (2, 16, 16, 3)
    assert np.all(np.isfinite(large)) and np.abs(large).max() <= 1

    report = evaluate([str(workdir) for workdir in workdirs], tmp_path / "out" / "report.json", ["pixels"],
                      samples=4, seed=0, batch_size=2)  # fmt: skip
    assert (
        json.loads((tmp_path / "out" / "report.json").read_text())["caption_recall_at_10"]
        == (report["caption_recall_at_10"])
    )
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"report.json", "loss.png", "recall.png"}

    again = next(load_cascade(workdirs, batch_size=3).draw(["panda", "tree", "red apple"]))[1]
    np.testing.assert_allclose(again[2], large[0], atol=1 / 255, err_msg="a picture depends on its neighbours")
    assert not np.allclose(again[0], again[1], atol=1e-4), "two prompts, one picture"

    caplog.clear()
    long_prompt = "a red apple " * 40
    next(cascade.draw([long_prompt]))
    warnings = [record.getMessage() for record in caplog.records if "truncated" in record.getMessage()]
    assert len(warnings) == 1 and repr(long_prompt) in warnings[0], "both stages and the filled batch warn as one"


@pytest.mark.parametrize("name", CASCADES)
def test_a_cascade_of_three_trains_and_samples(name, tmp_path, data_dir, own_images):
    """Mostly the parts of the test above, so a resumed run is looked at once: of the stage that trains by Adafactor."""
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


def test_a_finished_run_returns_at_once(tmp_path, data_dir, own_images, capsys):
    config = smoke(own_images_config.get_config, "base", data_dir, own_images)
    first = train(config, tmp_path)
    second = train(config, tmp_path)
    assert "trained already" in capsys.readouterr().out
    assert all(np.array_equal(a, b) for a, b in zip(plain(first), plain(second), strict=True))
