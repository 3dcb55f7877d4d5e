"""How fast features of FID come: ours, and pytorch-fid's in PyTorch.

From the repository's root, with PyTorch and the libraries of ``tests/reference/make_inception_reference.py``::

    python -m tests.benchmarks.extract_features

Both get the same uint8 pictures in one batch, resize them their way (``legacy_pytorch``) and take turns on all cores;
the weights are random, which costs the same. Medians; seconds of the processor are of all cores together, and tell
more than the clock where others compute on the machine too.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from imagen_jax.encoders.inception_weights import load_inception
from tests.reference.inception_weights import make_images, random_tensors
from tests.reference.make_inception_reference import load_pytorch_fid, to_torch, write_state

Run = Callable[[], np.ndarray]


def of_ours(weights: Path, images: np.ndarray) -> Run:
    """What computes features with this package; compiled already."""
    network = load_inception(str(weights), "legacy_pytorch")
    prepared = jnp.asarray(np.stack([network.prepare(image) for image in images]))
    begin, begin_cpu = time.perf_counter(), time.process_time()
    program = jax.jit(network.extract).lower(network.weights, prepared).compile()
    print(f"compiled in {time.perf_counter() - begin:.1f} s, {time.process_time() - begin_cpu:.1f} s of the processor")
    return lambda: np.asarray(program(network.weights, prepared).pooled)


def of_pytorch_fid(weights: Path, images: np.ndarray) -> Run:
    """What computes features with pytorch-fid."""
    import torch

    network, inputs = load_pytorch_fid(weights), to_torch(images)

    def run() -> np.ndarray:
        with torch.inference_mode():
            return network(inputs.float() / 255)[0].numpy()[:, :, 0, 0]

    return run


def measure(runs: dict[str, Run], rounds: int) -> dict[str, tuple[list[float], list[float]]]:
    """Seconds by the clock, and of the processor, of each round; a first one is not counted."""
    seconds: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in runs}
    for turn in range(rounds + 1):
        for name, run in runs.items():
            begin, begin_cpu = time.perf_counter(), time.process_time()
            run()
            if turn:
                seconds[name][0].append(time.perf_counter() - begin)
                seconds[name][1].append(time.process_time() - begin_cpu)
    return seconds


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description="How fast features of FID come.")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--size", type=int, default=256, help="pixels of a side")
    parser.add_argument("--rounds", type=int, default=5)
    flags = parser.parse_args()
    images = make_images(flags.size, flags.size, flags.batch)
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "inception.pth"
        write_state(weights, random_tensors())
        runs = {"ours": of_ours(weights, images), "pytorch-fid": of_pytorch_fid(weights, images)}
    one, other = (run() for run in runs.values())
    print(f"they differ by at most {np.abs(one - other).max() / np.abs(other).max():.1e} of the greatest feature")
    seconds = measure(runs, flags.rounds)
    print("| | images/s | slowest to fastest round | processor, s/image |\n|---|---|---|---|")
    for name, (clock, processor) in seconds.items():
        speeds = [flags.batch / each for each in clock]
        of_one = statistics.median(processor) / flags.batch
        print(f"| {name} | {statistics.median(speeds):.2f} | {min(speeds):.2f} to {max(speeds):.2f} | {of_one:.3f} |")
    ratios = [theirs / mine for mine, theirs in zip(seconds["ours"][0], seconds["pytorch-fid"][0], strict=True)]
    print(
        f"ours is {statistics.median(ratios):.2f} times as fast, round by round {min(ratios):.2f} to {max(ratios):.2f}"
    )


if __name__ == "__main__":
    main()
