"""Compares a run that was killed with the uninterrupted one."""

import json
import os
import re
from functools import cache
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import numpy as np

from imagen_jax.cascade.stage_task import make_stage_task
from imagen_jax.training.checkpoints.store import CheckpointStore
from imagen_jax.training.compiled_training import make_training
from tests.torture import tiny
from tests.torture.runs import PREVIEWED, STEPS, RunPaths, effective_batches

OF_TIME = re.compile("per_second|seconds|overhead|input_wait|goodput|memory")


@cache
def shapes():
    """Of the state, which all variants share."""
    config = tiny.get_config("nowhere")
    return make_training(make_stage_task(config)).state


def contents(paths: RunPaths) -> dict[str, np.ndarray]:
    """The arrays of the newest checkpoint by their names, keys as their numbers; and the position in the data."""
    with CheckpointStore(paths.workdir / "checkpoints") as checkpoints:
        state, data_state = checkpoints.restore(shapes())
    found = {"data position": np.array(json.dumps(data_state, sort_keys=True))}
    for path, leaf in jax.tree_util.tree_flatten_with_path(state)[0]:
        is_key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        found[name] = np.asarray(jax.random.key_data(leaf) if is_key else leaf)
    return found


def same_bits(one: np.ndarray | None, other: np.ndarray | None) -> bool:
    """Whether two arrays are of one type and shape and have the same bits."""
    if one is None or other is None or one.dtype != other.dtype or one.shape != other.shape:
        return False
    return one.tobytes() == other.tobytes()


def metrics(workdir: Path) -> list[dict]:
    """The lines of metrics without times and memory."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if not OF_TIME.search(name)} for line in lines]


def pictures(workdir: Path) -> dict[str, bytes]:
    """The previews that an uninterrupted run has."""
    wanted = [*range(PREVIEWED, STEPS, PREVIEWED), STEPS]
    files = {step: workdir / "previews" / f"{step:07d}.png" for step in wanted}
    return {str(step): file.read_bytes() if file.exists() else b"" for step, file in files.items()}


def differences(whole: RunPaths, killed: RunPaths, processes: int) -> list[str]:
    """Names of what differs between two finished runs; empty: nothing does."""
    found = []
    before, after = contents(whole), contents(killed)
    found += [name for name in sorted({*before, *after}) if not same_bits(before.get(name), after.get(name))]
    batches = zip(effective_batches(whole, processes), effective_batches(killed, processes), strict=True)
    found += [f"batch of step {step}" for step, (one, other) in enumerate(batches, 1) if one != other or None in one]
    lines, others = metrics(whole.workdir), metrics(killed.workdir)
    pairs = zip(lines, others, strict=False)
    found += ["number of lines of metrics"] * (len(lines) != len(others))
    found += [f"line {number} of metrics" for number, pair in enumerate(pairs, 1) if pair[0] != pair[1]]
    previews, others_previews = pictures(whole.workdir), pictures(killed.workdir)
    found += [f"preview {name}" for name in previews if previews[name] != others_previews[name] or not previews[name]]
    return found


def leftovers(whole: RunPaths, killed: RunPaths) -> list[str]:
    """Files and checkpoints that only one of two finished runs has, previews left out."""
    names = [
        {
            path.relative_to(paths.workdir).as_posix()
            for pattern in ("*", "checkpoints/*")
            for path in paths.workdir.glob(pattern)
        }
        for paths in (whole, killed)
    ]
    return sorted(names[0] ^ names[1])
