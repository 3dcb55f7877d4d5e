"""Compares two checkouts by their commands, in turns on one machine: is a change slower?

    python tests/benchmarks/two_checkouts.py BEFORE AFTER [--rounds=3] [--steps=12]

Each round trains the quickstart's base for a few steps and samples the bundled cascade, with an empty cache of compiled
programs and then with a full one, once in each checkout. The table has medians and the ratio AFTER / BEFORE. Both use
the Python that runs this, whose packages both must accept. Run it alone on the machine.
"""

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

COMPILED = re.compile(r"Compiled the training step in ([\d.]+) s")


def run(checkout: Path, cache: Path, *arguments: str) -> tuple[float, str]:
    """Runs a command of a checkout; returns its seconds and what it printed."""
    environment = {**os.environ, "PYTHONPATH": str(checkout), "IMAGEN_JAX_CACHE": str(cache)}
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "imagen_jax", *arguments],
        cwd=checkout,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return time.perf_counter() - began, done.stdout + done.stderr


def measure(checkout: Path, data: Path, steps: int) -> dict[str, float]:
    """Measures one checkout once: seconds of compiling, of a step, and of sampling."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        _, printed = run(
            checkout,
            folder / "cache",
            "train",
            "--config=quickstart:base",
            f"--workdir={folder / 'run'}",
            f"--config.data.data_dir={data}",
            f"--config.training.steps={steps}",
            "--config.training.log_every=1",
            "--config.training.preview_every=0",
        )
        lines = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
        found = COMPILED.search(printed)
        rates = [line["images_per_second"] for line in lines[2:]]
        sample = ("sample", "--stages=openmoji", "--prompt=panda", "--samples_per_prompt=8")
        first, _ = run(checkout, folder / "cache", *sample, f"--out={folder / 'first'}")
        again, _ = run(checkout, folder / "cache", *sample, f"--out={folder / 'again'}")
        return {
            "compiling the training step (s)": float(found[1]) if found else float("nan"),
            "a training step of 64 images (s)": 64 / statistics.median(rates),
            "8 images, nothing compiled before (s)": first,
            "8 images, programs in the cache (s)": again,
            "first loss": lines[0]["loss"],
            "last loss": lines[-1]["loss"],
        }


def main() -> None:
    """Measures both checkouts in turns and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=12)
    arguments = parser.parse_args()
    checkouts = {"before": arguments.before.absolute(), "after": arguments.after.absolute()}
    data = Path(tempfile.mkdtemp())
    try:
        measured: dict[str, list[dict[str, float]]] = {name: [] for name in checkouts}
        for number in range(arguments.rounds):
            # Who comes first takes turns too.
            for name in sorted(checkouts, reverse=number % 2 == 0):
                measured[name].append(measure(checkouts[name], data, arguments.steps))
        print("| | before | after | after / before |\n|---|---|---|---|")
        for what in measured["before"][0]:
            before, after = (statistics.median(one[what] for one in measured[name]) for name in checkouts)
            print(f"| {what} | {before:.4g} | {after:.4g} | {after / before:.3f} |")
    finally:
        shutil.rmtree(data, ignore_errors=True)


if __name__ == "__main__":
    main()
