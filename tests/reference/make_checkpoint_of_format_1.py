"""Writes ``tests/golden/checkpoint_format_1.zip``: a checkpoint of the time before they had a format number.

    git checkout ded5372
    python -m tests.reference.make_checkpoint_of_format_1 tests/golden/checkpoint_format_1.zip

Made on 26 November 2026 by the code of commit ded5372; newer code writes newer formats, and so must not make it again.
"""

import sys
import tempfile
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from imagen_jax.training.checkpoints.store import CheckpointStore
from imagen_jax.training.state import TrainState, initial_state

STEP, DATA_STATE = 7, {"batches_read": 7, "shuffle": True}


def make_state() -> TrainState:
    """The state that the file holds."""
    numbers = np.random.default_rng(8)
    params = {
        "layer": {
            "kernel": jnp.asarray(numbers.standard_normal((6, 5)), jnp.float32),
            "bias": jnp.asarray(numbers.standard_normal(5), jnp.bfloat16),
        }
    }
    state = initial_state(params, optax.adam(0.1), jax.random.key(5))
    average = jax.tree.map(lambda leaf: leaf * 2, params)
    return state._replace(ema_params=average, step=jnp.asarray(STEP, jnp.int32))


def main(zip_file: str) -> None:
    """Writes the file."""
    with tempfile.TemporaryDirectory() as folder:
        with CheckpointStore(folder) as store:
            store.save(STEP, make_state(), DATA_STATE)
        with zipfile.ZipFile(zip_file, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in sorted(Path(folder).rglob("*")):
                archive.write(path, path.relative_to(folder))


if __name__ == "__main__":
    main(sys.argv[1])
