"""What checkpoints cost a run: the quickstart's base, so many steps with a checkpoint in their midst and without.

python -m tests.benchmarks.checkpoint_cost [--rounds=3] [--steps=8]
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from configs import quickstart
from imagen_jax.cascade.stage_task import make_stage_task
from imagen_jax.training.checkpoints.checksums import fingerprints_of
from imagen_jax.training.checkpoints.metadata import arrays_by_name
from imagen_jax.training.checkpoints.store import CheckpointStore
from imagen_jax.training.compiled_training import make_training


def run(step: Any, state: Any, batch: Any, steps: int, store: CheckpointStore | None, number: int) -> tuple[Any, ...]:
    """Runs some steps; after the first a checkpoint is begun. Returns the state, all seconds and those of beginning."""
    began = time.perf_counter()
    saving = 0.0
    for index in range(steps):
        state, metrics = step(state, batch)
        jax.block_until_ready(metrics)
        if store is not None and index == 0:
            before = time.perf_counter()
            store.save(number, state, {"batches_read": number})
            saving = time.perf_counter() - before
    if store is not None:
        store.wait()
    return state, time.perf_counter() - began, saving


def main() -> None:
    """Prints the seconds and the share."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8)
    options = parser.parse_args()
    config = quickstart.get_config("base")
    training = make_training(make_stage_task(config))
    step = training.compile()
    state = training.make_state()
    batch = jax.tree.map(lambda leaf: jax.device_put(jnp.zeros(leaf.shape, leaf.dtype), leaf.sharding), training.batch)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    state, _, _ = run(step, state, batch, 1, None, 0)
    with tempfile.TemporaryDirectory() as folder, CheckpointStore(Path(folder)) as store:
        began = time.perf_counter()
        state, _, _ = run(step, state, batch, 1, store, 1)
        first = time.perf_counter() - began
        print(
            f"{len(jax.tree.leaves(state))} arrays, {size / 1e6:.0f} MB; a step and the first checkpoint {first:.1f} s"
        )
        without, with_one, beginning, marks = [], [], [], []
        for number in range(options.rounds):
            state, seconds, _ = run(step, state, batch, options.steps, None, 0)
            without.append(seconds)
            state, seconds, saving = run(step, state, batch, options.steps, store, number + 2)
            with_one.append(seconds)
            beginning.append(saving)
            before = time.perf_counter()
            fingerprints_of(arrays_by_name(state))
            marks.append(time.perf_counter() - before)
            print(
                f"{without[-1]:.2f} s without, {seconds:.2f} s with one, {saving:.2f} s before the next step",
                flush=True,
            )
        began = time.perf_counter()
        store.restore(training.state)
        reading = time.perf_counter() - began
    a_step = statistics.median(without) / options.steps
    every = config.training.checkpoint_every
    of_all = {
        "a checkpoint in all, with what the steps beside it lose": statistics.median(with_one)
        - statistics.median(without),
        "until the next step": statistics.median(beginning),
        "of that the fingerprints": statistics.median(marks),
    }
    for name, seconds in of_all.items():
        print(f"{name}: {seconds:.2f} s, {seconds / (every * a_step):.3%} of {every} steps of {a_step:.2f} s")
    print(f"reading it again: {reading:.2f} s")


if __name__ == "__main__":
    main()
