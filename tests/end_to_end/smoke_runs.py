"""What the end-to-end tests share. They lie in several files so that they run beside each other."""

import json
import shutil

import jax
import numpy as np
from PIL import Image


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


def copy_after_first_step(workdir, copy):
    """Copies a run of two steps as it was after the first, as if it had been interrupted then."""
    shutil.copytree(workdir, copy, ignore=shutil.ignore_patterns("2", "0000002.png"))
    assert [path.name for path in (copy / "checkpoints").iterdir()] == ["1"]
    return copy
