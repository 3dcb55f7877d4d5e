"""How long a Fréchet distance of Inception's width takes, against pytorch-fid, and what its moments cost a batch.

From the repository's root::

    python -m tests.benchmarks.frechet_distance distance     # of full rank, of one lower rank, of two; medians
    python -m tests.benchmarks.frechet_distance batches      # batches of 32: gathered, and merged one by one
    python -m tests.benchmarks.frechet_distance metrics      # kernel distance, precision and recall, Inception Score

``OPENBLAS_NUM_THREADS=1`` before it gives times of one core, which other programs disturb less: OpenBLAS's threads wait
for each other by spinning. ``distance`` measures pytorch-fid too where it is installed.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np

from imagen_jax.evaluation.metrics.frechet import Moments, RunningMoments, frechet_distance, merge, moments_of
from imagen_jax.evaluation.metrics.inception_score import inception_score
from imagen_jax.evaluation.metrics.kernel_distance import kernel_distance
from imagen_jax.evaluation.metrics.precision_recall import precision_recall
from tests.reference.reference_functions import pytorch_fid_functions

WIDTH = 2048
BATCH = 32
CASES = {"both of full rank": (5000, 6000), "one of rank 499": (500, 6000), "of ranks 499 and 399": (500, 400)}


def draw(count: int, seed: int) -> np.ndarray:
    """Correlated features whose variances span four orders of magnitude."""
    mixing = np.random.default_rng(0).standard_normal((WIDTH, WIDTH)) * np.exp(-np.arange(WIDTH) / 400)[:, None]
    noise = np.random.default_rng(seed).standard_normal((count, WIDTH))
    return (noise @ mixing / 50).astype(np.float32)


def measure(ways: dict[str, Callable[[], object]], rounds: int) -> dict[str, tuple[float, float, object]]:
    """Medians of seconds and of seconds of processor time, all ways in turn, and what each returned."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    returned: dict[str, object] = {}
    for _ in range(rounds):
        for name, way in ways.items():
            began, busy = time.perf_counter(), time.process_time()
            returned[name] = way()
            taken[name].append((time.perf_counter() - began, time.process_time() - busy))
    medians = {name: [statistics.median(column) for column in zip(*rows, strict=True)] for name, rows in taken.items()}
    return {name: (wall, busy, returned[name]) for name, (wall, busy) in medians.items()}


def from_eigenvectors(first: Moments, second: Moments) -> float:
    """As this project did it first: the root of one covariance by its eigenvectors."""
    values, vectors = np.linalg.eigh(first.covariance)
    root = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    between = np.linalg.eigvalsh(root @ second.covariance @ root)
    apart = first.mean - second.mean
    traces = np.trace(first.covariance) + np.trace(second.covariance)
    return float(apart @ apart + traces - 2.0 * np.sum(np.sqrt(np.maximum(between, 0.0))))


def measure_distance(rounds: int) -> None:
    """Of each case, ours, ours as it was and pytorch-fid's."""
    try:
        theirs = pytorch_fid_functions().calculate_frechet_distance
    except AssertionError as error:
        print(f"pytorch-fid is left out: {error}")
        theirs = None
    for case, counts in CASES.items():
        first, second = (moments_of(draw(count, seed)) for seed, count in enumerate(counts, start=1))
        ways: dict[str, Callable[[], object]] = {
            "ours": lambda first=first, second=second: frechet_distance(first, second),
            "by eigenvectors": lambda first=first, second=second: from_eigenvectors(first, second),
        }
        if theirs:
            statistics_of_both = (first.mean, first.covariance, second.mean, second.covariance)
            ways["pytorch-fid"] = lambda given=statistics_of_both: theirs(*given)
        measured = measure(ways, rounds)
        for name, (wall, busy, distance) in measured.items():
            times = f"{wall:7.2f} s, {busy:7.2f} s of processors, {wall / measured['ours'][0]:5.1f} times ours"
            print(f"{case:<22} {name:<16} {times}: {distance:.6f}", flush=True)


def measure_batches(rounds: int) -> None:
    """The moments of 4,096 pictures."""
    batches = np.split(draw(4096, 1), 4096 // BATCH)

    def gathered() -> None:
        running = RunningMoments(WIDTH)
        for batch in batches:
            running.add(batch)
        running.result()

    def one_by_one() -> None:
        moments = moments_of(batches[0])
        for batch in batches[1:]:
            moments = merge(moments, moments_of(batch))

    ways: dict[str, Callable[[], object]] = {"gathered": gathered, "one by one": one_by_one}
    for name, (wall, busy, _) in measure(ways, rounds).items():
        wall, busy = (1000 * seconds / len(batches) for seconds in (wall, busy))
        print(f"{name:<12} {wall:6.1f} ms a batch, {busy:6.1f} ms of processors")


def measure_metrics(rounds: int) -> None:
    """The others at a size that a night's evaluation has, or near it."""
    ours, theirs = draw(5000, 1), draw(5000, 2)
    ways: dict[str, Callable[[], object]] = {
        "kernel distance, 100 subsets of 1,000": lambda: kernel_distance(ours, theirs),
        "precision and recall, 5,000 and 5,000": lambda: precision_recall(ours, theirs),
        "Inception Score of 5,000": lambda: inception_score(ours[:, :1008]),
    }
    for name, (wall, busy, _) in measure(ways, rounds).items():
        print(f"{name:<40} {wall:6.2f} s, {busy:6.2f} s of processors", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=["distance", "batches", "metrics"])
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    steps = {"distance": measure_distance, "batches": measure_batches, "metrics": measure_metrics}
    steps[arguments.step](arguments.rounds)
