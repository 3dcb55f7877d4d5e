"""Trains a thousand steps in bfloat16 and looks for a number that is not finite.

From the repository's root; stopped and run again it continues::

    JAX_PLATFORMS=cpu python -m tests.benchmarks.finite_numbers FOLDER [--steps=1000]

A small network on drawn shapes, with the quickstart's losses and optimizer. Prints a line, and ends with status 1 where
a step was skipped or a loss of the log is not finite.
"""

import argparse
import math
import statistics
import sys
from pathlib import Path

from ml_collections import ConfigDict

from configs import quickstart
from imagen_jax.data.preparation.conversion import Conversion
from imagen_jax.data.preparation.preparation import Preparation, prepare
from imagen_jax.data.sources.synthetic import synthetic_parts
from imagen_jax.train import train
from imagen_jax.training.monitoring.metrics import read_metrics


def make_config(data: Path, steps: int) -> ConfigDict:
    """A small network in bfloat16."""
    config = quickstart.get_config("base,smoke")
    config.network.update({"channels": (16,), "blocks": (1,), "strides": (1,), "dtype": "bfloat16"})
    config.network.update({"self_attention": (False,), "cross_attention": (False,)})
    config.data.source = "prepared"
    config.data.options = ConfigDict({"folder": str(data)})
    config.training.update({"steps": steps, "checkpoint_every": 100, "log_every": 10, "preview_every": 10**9})
    config.optimizer.decay_steps = steps
    return config


def main() -> None:
    """Trains, and tells."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=1000)
    arguments = parser.parse_args()
    data = arguments.folder / "data"
    if not (data / "dataset_info.json").exists():
        parts = synthetic_parts(count=60, resolution=32)
        prepare(Preparation("synthetic", {}, "Ours", parts, Conversion(), duplicates="keys"), data, 0)
    train(make_config(data, arguments.steps), arguments.folder / "run")
    lines = read_metrics(arguments.folder / "run")
    losses = [line["loss"] for line in lines]
    finite = all(math.isfinite(line[name]) for line in lines for name in ("loss", "gradient_norm"))
    skipped = lines[-1]["skipped"]
    first, last = statistics.mean(losses[:5]), statistics.mean(losses[-5:])
    print(
        f"{lines[-1]['step']} steps, {skipped:.0f} skipped, all logged finite: {finite}; loss {first:.3f} to {last:.3f}"
    )
    sys.exit(int(skipped > 0 or not finite))


if __name__ == "__main__":
    main()
