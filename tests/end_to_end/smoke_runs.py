"""What the end-to-end tests share. They lie in several files so that they run beside each other."""

import json

import jax
import numpy as np
from PIL import Image

from imagen_jax.cascades import load_cascade
from imagen_jax.evaluate import evaluate
from imagen_jax.protocols.requests import Wanted
from imagen_jax.train import train

VARIANTS = ("base", "super_resolution")


def smoke(get_config, variant, data_dir, own_images):
    config = get_config(f"{variant},smoke")
    config.data.data_dir = str(data_dir)
    if config.data.source == "folder":
        config.data.options.folder = str(own_images)
    else:
        config.data.resolution = 32  # one set of drawings for every config, and one of their embeddings
    return config


def draw_own_images(folder):
    """Forty squares and bars of random colours, with captions that say which."""
    generator = np.random.default_rng(0)
    for number in range(40):
        pixels = np.full((40, 40, 3), 255, np.uint8)
        shape = "square" if number % 2 else "bar"
        rows = slice(10, 30) if shape == "square" else slice(17, 23)
        pixels[rows, 8:32] = generator.integers(0, 200, 3)
        Image.fromarray(pixels).save(folder / f"{number:02d}.png")
        (folder / f"{number:02d}.txt").write_text(f"{shape} number {number}\n")
    return folder


def plain(state):
    """The state's arrays on the host, keys as their numbers."""
    return [
        np.asarray(jax.random.key_data(leaf) if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf)
        for leaf in jax.tree.leaves(state)
    ]


def losses(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines}


def check_cascade_of_two(get_config, folder, data_dir, own_images, caplog):
    """Both stages train, are cut and resumed, sample, and are evaluated."""
    for variant in VARIANTS:
        config = smoke(get_config, variant, data_dir, own_images)
        whole = train(config, folder / variant)
        assert int(whole.step) == 2 and set(losses(folder / variant)) == {1, 2}

        config.training.steps = 1
        train(config, folder / f"{variant}_cut")
        config.training.steps = 2
        resumed = train(config, folder / f"{variant}_cut")
        assert all(np.array_equal(a, b) for a, b in zip(plain(whole), plain(resumed), strict=True))
        assert losses(folder / variant) == losses(folder / f"{variant}_cut")
        assert sorted(path.name for path in (folder / variant / "previews").iterdir()) == ["0000002.png"]

    workdirs = [folder / variant for variant in VARIANTS]
    cascade = load_cascade(workdirs, batch_size=2)
    small, large = next(cascade.draw(["red apple", "panda"]))
    assert small.shape == (2, 8, 8, 3) and large.shape == (2, 16, 16, 3)
    assert np.all(np.isfinite(large)) and np.abs(large).max() <= 1

    wanted = Wanted(features=["pixels"], samples=4)
    report = evaluate([str(workdir) for workdir in workdirs], folder / "out", wanted, batch_size=2)
    assert (
        json.loads((folder / "out" / "report.json").read_text())["caption_recall_at_10"]
        == (report["caption_recall_at_10"])
    )
    assert {path.name for path in (folder / "out").iterdir()} == {
        "captions.jsonl", "features", "loss.png", "pictures", "recall.png", "report.html", "report.json"
    }  # fmt: skip

    again = next(load_cascade(workdirs, batch_size=3).draw(["panda", "tree", "red apple"]))[1]
    np.testing.assert_allclose(again[2], large[0], atol=1 / 255, err_msg="a picture depends on its neighbours")
    assert not np.allclose(again[0], again[1], atol=1e-4), "two prompts, one picture"

    caplog.clear()
    long_prompt = "a red apple " * 40
    next(cascade.draw([long_prompt]))
    warnings = [record.getMessage() for record in caplog.records if "truncated" in record.getMessage()]
    assert len(warnings) == 1 and repr(long_prompt) in warnings[0], "both stages and the filled batch warn as one"
